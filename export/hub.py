"""Checkpoint files on the Hugging Face hub, fetched at one resolved commit."""

from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.runtime.errors import CheckpointError

__all__ = ["HubSnapshot"]


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """Stand for one commit of a hub repository: its file names, and a way to fetch them."""

    repository: str
    commit: str
    names: tuple[str, ...]
    cache_dir: Path | None = None

    @classmethod
    def resolve(
        cls, repository: str, revision: str | None, cache_dir: Path | None
    ) -> "HubSnapshot":
        """Find the commit that a branch, a tag or a commit's hash stands for.

        Asks the hub, and the local cache where the hub cannot be reached.
        Raises `CheckpointError` where the hub refuses, or neither of them knows the repository.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            info = HfApi().model_info(repository, revision=revision)
        # A lost connection raises whatever the HTTP client of the installed version raises.
        except Exception as error:
            answered = isinstance(error, HfHubHTTPError) and error.response is not None
            if answered or isinstance(error, ValueError):
                raise _refusal(repository, error) from error
            commit, names = _cached(repository, revision or "main", cache_dir, error)
            return cls(repository, commit, names, cache_dir)
        names = tuple(file.rfilename for file in info.siblings or ())
        return cls(repository, info.sha or revision or "main", names, cache_dir)

    def fetch(self, name: str) -> Path:
        """Return the local path of one file, downloading it unless the cache holds it.

        Raises `CheckpointError` where the hub refuses it or cannot be reached.
        """
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                self.repository, name, revision=self.commit, cache_dir=self.cache_dir
            )
        except Exception as error:
            raise _refusal(self.repository, error) from error
        return Path(path)


def _cached(
    repository: str, revision: str, cache_dir: Path | None, error: Exception
) -> tuple[str, tuple[str, ...]]:
    """Return the commit and the file names that the local cache holds for a revision.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache (the folder's layout).
    """
    from huggingface_hub import constants

    home = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    reference = home / "refs" / revision
    commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
    folder = home / "snapshots" / commit
    if not folder.is_dir():
        raise _refusal(repository, error) from error
    files = (path for path in folder.rglob("*") if path.is_file())
    return commit, tuple(path.relative_to(folder).as_posix() for path in files)


def _refusal(repository: str, error: Exception) -> CheckpointError:
    lines = (line.strip() for line in str(error).splitlines())
    reason = next((line for line in lines if line), "no reason given").rstrip(".")
    return CheckpointError(
        f"{repository}: cannot be fetched from the Hugging Face hub ({type(error).__name__}:"
        f" {reason}); check the name, the connection and whether its licence must be accepted, or"
        " name a local file"
    )
