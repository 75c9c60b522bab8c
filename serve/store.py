"""Where the server keeps things, and how much of it.

    FOLDER/jobs.sqlite          the jobs
    FOLDER/running.sqlite       locked by the process that has the workers
    FOLDER/videos/ID/           video.mp4, video.gif, video.webp, thumbnail.webp, spritesheet.jpg,
                                preview.png, state.latents

No name comes from a request: an id is looked up among the jobs, the rest stands here.
"""

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.files import lock
from hummingbird_edge.serve.jobs import Jobs

__all__ = ["CONTENT", "PREVIEW", "STATE", "Store"]

PREVIEW, STATE = "preview.png", "state.latents"
"""What is there while a video is made."""

CONTENT = {
    ("video", "mp4"): ("video.mp4", "video/mp4"),
    ("video", "gif"): ("video.gif", "image/gif"),
    ("video", "webp"): ("video.webp", "image/webp"),
    ("thumbnail", "mp4"): ("thumbnail.webp", "image/webp"),
    ("spritesheet", "mp4"): ("spritesheet.jpg", "image/jpeg"),
}
"""Variant and format to file and media type."""
MIN_FREE_BYTES = 24 << 20
"""With less room on the disk nothing new is begun."""


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of data."""

    folder: Path
    max_bytes: int
    """Of all videos; beyond, the oldest go."""

    @classmethod
    def open(cls, folder: Path, max_bytes: int) -> "Store":
        """Make the folder, for its user alone; raises OutputError."""
        try:
            (folder / "videos").mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise OutputError(
                f"the folder {folder} cannot be made ({error.strerror or error}): "
                f"choose another with --data"
            ) from error
        return cls(folder.resolve(), max_bytes)

    def jobs(self) -> Jobs:
        """Open a connection to the jobs; raises OutputError."""
        path = self.folder / "jobs.sqlite"
        try:
            return Jobs(path)
        except sqlite3.Error as error:
            raise OutputError(
                f"{path} cannot be opened ({error}): make room, or choose another --data"
            ) from error

    def lock(self) -> sqlite3.Connection | None:
        """Become the process that has the workers; None where another one is.

        The system drops the lock when the process ends, however that happens.
        """
        return lock(self.folder / "running.sqlite")

    def of(self, key: str) -> Path:
        """Return the folder of a job's files."""
        return self.folder / "videos" / key

    def adopt(self, key: str, state: Path) -> None:
        """Take over the file with a job's steps; raises OSError."""
        self.of(key).mkdir(parents=True)
        shutil.move(state, self.of(key) / STATE)

    def remove(self, key: str) -> None:
        """Remove a job's files."""
        shutil.rmtree(self.of(key), ignore_errors=True)

    def size(self, key: str, is_done: bool = False) -> int:
        """Return the bytes of a job's files, of one that is done those that stay."""
        passing = (PREVIEW, STATE) if is_done else ()
        files = (path for path in self.of(key).glob("*") if path.name not in passing)
        try:
            return sum(path.stat().st_size for path in files)
        except FileNotFoundError:  # it is being deleted, or a worker of before ends
            return self.size(key, is_done)

    def remove_state(self, key: str) -> None:
        """Remove what is there only while a video is made."""
        for name in (PREVIEW, STATE):
            (self.of(key) / name).unlink(missing_ok=True)

    def has_room(self) -> bool:
        """Tell whether the disk takes another video."""
        return shutil.disk_usage(self.folder).free >= MIN_FREE_BYTES

    def prune(self, jobs: Jobs) -> None:
        """Remove the oldest videos beyond `max_bytes`, but no pinned ones."""
        excess = jobs.total_bytes() - self.max_bytes
        if excess <= 0:
            return
        for job in jobs.disposable():
            jobs.delete(job.id)
            self.remove(job.id)
            excess -= job.bytes
            if excess <= 0:
                return

    def remove_orphans(self, jobs: Jobs) -> None:
        """Remove files of jobs that are no more, as a kill in the middle of a removal leaves."""
        paths = [*(self.folder / "videos").iterdir()]  # first: what is added from here on stays
        known = jobs.ids()
        for path in paths:
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
