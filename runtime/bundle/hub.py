"""Bundles on the Hugging Face hub: `hb-run --bundle owner/name`.

What the local cache holds is used without asking anybody. What it lacks is downloaded by
huggingface_hub, where that is installed; reading the cache takes a few lines and no package.
Source: huggingface_hub's guide "Understand caching" (the folder's layout).
"""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import atomic_folder, record_path

__all__ = ["cached_snapshot", "find_bundle", "looks_like_hub_id", "with_real_files"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]")


def looks_like_hub_id(source: str | os.PathLike[str]) -> bool:
    """Tell whether `source` reads `owner/name` and no such file or folder exists."""
    text = os.fspath(source)
    return bool(_HUB_ID.fullmatch(text)) and ".." not in text and not Path(text).exists()


def find_bundle(source: str | Path) -> Path:
    """Return the folder of a bundle: `source` itself, or a snapshot of the repository it names.

    Raises BundleError where a repository is neither in the cache nor to be downloaded.
    """
    if not looks_like_hub_id(source):
        return Path(source)
    repository = Path(source).as_posix()
    snapshot = cached_snapshot(repository)
    if snapshot is not None and (snapshot / "hummingbird.json").exists():
        return snapshot
    if find_spec("huggingface_hub") is None:
        raise BundleError(
            f"there is no folder {repository} and the Hugging Face cache holds no bundle of that "
            f"name: check the path, or pip install huggingface_hub to download it"
        )
    return _download(repository)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository))
    except Exception as error:  # whatever the HTTP client of the installed version raises
        line = next((x.strip() for x in str(error).splitlines() if x.strip()), "no reason given")
        raise BundleError(
            f"{repository} cannot be fetched from the Hugging Face hub ({type(error).__name__}: "
            f"{line.rstrip('.')}): check the name and the connection, or name a local folder"
        ) from error


def _cache() -> Path:
    """Return the folder of the Hugging Face cache, by the variables that move it."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return default.expanduser() / "huggingface" / "hub"


def cached_snapshot(
    repository: str, revision: str = "main", cache: Path | None = None
) -> Path | None:
    """Return the folder of a repository's files at `revision` in the cache, or None."""
    home = (cache or _cache()) / f"models--{repository.replace('/', '--')}"
    reference = home / "refs" / revision
    commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
    folder = home / "snapshots" / commit
    return folder if folder.is_dir() else None


def with_real_files(folder: Path) -> Path:
    """Return `folder`, or for a snapshot in the Hugging Face cache one with files for its links.

    OpenVINO reads no weights through a link that leaves the graph's folder. The files are
    hard links into the cache where the file system has them, else copies. Raises BundleError.
    """
    home = folder.resolve()
    if home.parent.name != "snapshots" or not home.parent.parent.name.startswith("models--"):
        return folder
    view, blobs = record_path("hub", str(home)).with_suffix(""), home.parent.parent / "blobs"
    if view.is_dir():
        return view
    try:
        view.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(view) as partial:
            for path in home.rglob("*"):
                if path.is_file() and path.resolve().is_relative_to(blobs):
                    target = partial / path.relative_to(home)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(path.resolve(), target)
    except OSError as error:
        raise BundleError(
            f"the files of {folder} cannot be linked or copied into {view.parent} ({error}): "
            f"make room there, or set HUMMINGBIRD_CACHE to another folder"
        ) from error
    return view


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
