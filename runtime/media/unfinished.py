"""Videos that are being made, or were when their process ended: a file of latents each.

    kept = Kept(origin, warn)
    kept.keep(settings, taken, latents)         after every step
    kept.remove()                               when the video is safe

They lie in the user's state folder (`~/.local/state/hummingbird-edge/unfinished` on Linux).
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.files import is_running, process_mark, state_directory
from hummingbird_edge.runtime.media.latents import LatentsFile, read_latents, write_latents

__all__ = [
    "Kept",
    "Unfinished",
    "find_unfinished",
    "list_unfinished",
    "without_foreign_origin",
]

SUFFIX = ".latents"
_MOST = 20
"""Files that are left; beyond these the oldest go."""


class Kept:
    """The file of the video that this process makes."""

    def __init__(
        self,
        origin: Mapping[str, object],
        warn: Callable[[str], None],
        path: Path | None = None,
    ) -> None:
        """Take `path`, or a new file; nothing is written before `keep`.

        `warn` hears, once, that the file cannot be written: the video goes on without.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}{SUFFIX}"
        self.path = path or _folder() / name
        self.taken = -1
        """Steps whose latents are on disk; -1 for nothing."""
        self._warn = warn
        self._origin = {**origin, "process": process_mark()}

    def keep(
        self, settings: Mapping[str, object], taken: int, latents: NDArray[np.float32] | None
    ) -> None:
        """Write where the video stands; `latents` None is pure noise, which the seed gives."""
        if self._warn is _quiet:
            return
        array = np.zeros(0, np.float32) if latents is None else latents
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(self.path.parent)
            write_latents(self.path, LatentsFile(settings, taken, array, self._origin))
        except OSError as error:
            self._warn(
                f"the video is not kept for --resume, {self.path.parent} cannot be written "
                f"({error.strerror or error})"
            )
            self._warn = _quiet
            return
        self.taken = taken

    def leave(self) -> None:
        """Leave the file for `--resume`, but one that holds no step of this process's."""
        if self.taken == 0:
            self.remove()

    def remove(self) -> None:
        """Remove the file: the video is safe."""
        if self.taken >= 0:
            self.path.unlink(missing_ok=True)


def _quiet(text: str) -> None:
    """Say nothing: it was said."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A file in the folder, without its latents."""

    path: Path
    file: LatentsFile
    is_running: bool
    """Whether the process that makes it is there."""
    modified: float
    """Seconds since 1970."""


def list_unfinished() -> list[Unfinished]:
    """Return the unfinished videos, the newest first; damaged files are passed over."""
    found = []
    for path in _folder().glob(f"*{SUFFIX}"):
        try:
            file, modified = read_latents(path, header_only=True), path.stat().st_mtime
        except (OutputError, OSError):
            continue
        found.append(Unfinished(path, file, is_running(file.origin.get("process")), modified))
    return sorted(found, key=lambda each: each.modified, reverse=True)


def find_unfinished(path: Path | None = None) -> tuple[Path, LatentsFile]:
    """Return the file at `path`, or the newest one that no process is working on, and its latents.

    Raises OutputError where there is none, or a process is working on it.
    """
    if path is None:
        free = [each.path for each in list_unfinished() if not each.is_running]
        if not free:
            raise OutputError(
                f"there is nothing to resume in {_folder()}: every video is finished or being made"
            )
        path = free[0]
    file = read_latents(path)
    if is_running(file.origin.get("process")):
        raise OutputError(
            f"{path} belongs to a video that another hb-run is making: wait for it, or stop it"
        )
    return path, without_foreign_origin(path, file)


def without_foreign_origin(path: Path, file: LatentsFile) -> LatentsFile:
    """Return `file` as it may be believed: one from elsewhere names no path to write or read."""
    is_own = path.parent.resolve() == _folder().resolve()
    return file if is_own else replace(file, origin={})


def _folder() -> Path:
    return state_directory("unfinished")


def _make_room(folder: Path) -> None:
    kept = sorted(folder.glob(f"*{SUFFIX}"), key=_modified, reverse=True)
    for path in kept[_MOST:]:
        path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    """Return when a file was written; 0 where its video has been finished meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
