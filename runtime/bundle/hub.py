"""Repositories on the Hugging Face hub: bundles for `hb-run`, checkpoints for `hb-export`.

Files come from the local cache, or are downloaded by huggingface_hub where that is installed;
reading the cache takes a few lines and no package. Source: huggingface_hub's guide "Understand
caching" (the folder's layout).
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hummingbird_edge.runtime.bundle.manifest import MANIFEST, Manifest
from hummingbird_edge.runtime.errors import BundleError, HubError
from hummingbird_edge.runtime.files import recover

__all__ = ["HubSnapshot", "find_bundle", "looks_like_hub_id"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]")


def looks_like_hub_id(source: str | os.PathLike[str]) -> bool:
    """Tell whether `source` reads `owner/name` and no such file or folder exists."""
    text = os.fspath(source)
    return bool(_HUB_ID.fullmatch(text)) and ".." not in text and not Path(text).exists()


def find_bundle(source: str | Path) -> Path:
    """Return the folder of a bundle: `source` itself, or a snapshot of the repository it names.

    The cache is used without asking anybody; files that it lacks are downloaded. Raises BundleError
    where huggingface_hub is needed and not installed, HubError where the download fails.
    """
    recover(Path(source))
    if not looks_like_hub_id(source):
        return Path(source)
    repository = Path(source).as_posix()
    cached = _cached_snapshot(repository, "main", None)
    if cached is not None and _is_whole(cached):
        return cached
    if find_spec("huggingface_hub") is None:
        raise BundleError(
            f"there is no folder {repository} and the Hugging Face cache holds no whole bundle of "
            f"that name: check the path, or pip install huggingface_hub to download it"
        )
    snapshot = HubSnapshot.resolve(repository)
    folder = snapshot.fetch(MANIFEST).parent
    for name in Manifest.read(folder).files:
        snapshot.fetch(name)
    return folder


def _is_whole(folder: Path) -> bool:
    """Tell whether a cached snapshot has a manifest and all files that it lists."""
    if not (folder / MANIFEST).exists():
        return False
    return all((folder / name).exists() for name in Manifest.read(folder).files)


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """One commit of a hub repository: its file names, and a way to fetch them."""

    repository: str
    revision: str
    """What was asked for: a branch, a tag or a commit's hash."""
    commit: str
    names: tuple[str, ...]
    cache_dir: Path | None = None

    @classmethod
    def resolve(
        cls, repository: str, revision: str | None = None, cache_dir: Path | None = None
    ) -> "HubSnapshot":
        """Find the commit of a branch, a tag or a commit's hash; `main` by default.

        Asks the hub, and the local cache where the hub cannot be reached.
        Raises HubError where the hub refuses, or neither of them knows the repository.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        wanted = revision or "main"
        try:
            info = HfApi().model_info(repository, revision=wanted)
        # A lost connection raises whatever the HTTP client of the installed version raises.
        except Exception as error:
            answered = isinstance(error, HfHubHTTPError) and error.response is not None
            folder = _cached_snapshot(repository, wanted, cache_dir)
            if answered or isinstance(error, ValueError) or folder is None:
                raise _refusal(repository, error) from error
            files = (path for path in folder.rglob("*") if path.is_file())
            names = tuple(path.relative_to(folder).as_posix() for path in files)
            return cls(repository, wanted, folder.name, names, cache_dir)
        names = tuple(file.rfilename for file in info.siblings or ())
        return cls(repository, wanted, info.sha or wanted, names, cache_dir)

    def fetch(self, name: str) -> Path:
        """Return the local path of one file, downloading it unless the cache holds it.

        Raises HubError where the hub refuses it or cannot be reached.
        """
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                self.repository, name, revision=self.commit, cache_dir=self.cache_dir
            )
        except Exception as error:
            raise _refusal(self.repository, error) from error
        self._remember()
        return Path(path)

    def _remember(self) -> None:
        """Note the commit of a branch or tag, as a download by that name does: for offline use."""
        if self.revision == self.commit:
            return
        reference = _repository(self.repository, self.cache_dir) / "refs" / self.revision
        with suppress(OSError):  # a cache that somebody else filled may be read-only
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(self.commit, encoding="utf-8")


def _refusal(repository: str, error: Exception) -> HubError:
    lines = (line.strip() for line in str(error).splitlines())
    reason = next((line for line in lines if line), "no reason given").rstrip(".")
    return HubError(
        f"{repository} cannot be fetched from the Hugging Face hub ({type(error).__name__}: "
        f"{reason}), and there is no such file or folder here: check the path, the name, the "
        f"connection and whether its licence must be accepted"
    )


def _cached_snapshot(repository: str, revision: str, cache_dir: Path | None) -> Path | None:
    """Return the folder of a repository's files at `revision` in the local cache, or None."""
    home = _repository(repository, cache_dir)
    reference = home / "refs" / revision
    commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
    folder = home / "snapshots" / commit
    return folder if folder.is_dir() else None


def _repository(repository: str, cache_dir: Path | None) -> Path:
    return (cache_dir or _cache()) / f"models--{repository.replace('/', '--')}"


def _cache() -> Path:
    """Return the folder of the Hugging Face cache, by the variables that move it."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return default.expanduser() / "huggingface" / "hub"
