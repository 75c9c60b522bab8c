"""The memory that videos being made will take, told to each other by the processes that make them.

A process writes what it will need into the user's state folder and reads what those before it have
written. What they do not hold yet is not free, though the system says so.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from hummingbird_edge.runtime.files import (
    is_running,
    process_mark,
    read_record,
    state_directory,
    write_record,
)

__all__ = ["Claim"]


@dataclass(eq=False)
class Claim:
    """What this process will hold for a video."""

    since: float = 0.0
    """Seconds since 1970: an earlier claim goes first."""

    @property
    def path(self) -> Path:
        """The file that says it."""
        return _folder() / f"{process_mark()}.json"

    def set(self, count: int) -> None:
        """Claim `count` bytes; where the folder cannot be written, others know nothing of it."""
        self.since = self.since or time.time()
        _counts[self] = count
        self._write()

    def drop(self) -> None:
        """Take the claim back."""
        since, self.since = self.since, 0.0
        _counts.pop(self, None)
        if _counts:
            self._write(since)
            return
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _write(self, since: float | None = None) -> None:
        entries = {"bytes": sum([*_counts.values()]), "since": since or self.since}
        write_record(self.path, entries)

    def before(self) -> tuple[int, int]:
        """Return what earlier claims of running processes hold, and what they will take yet."""
        held = taken = 0
        for path, count, since in _others():
            if (since, path.stem) < (self.since, process_mark()):
                now = _held(path.stem)
                held += now
                taken += max(0, count - now)
        return held, taken


_counts = WeakKeyDictionary[Claim, int]()
"""Bytes by claim of this process, which may denoise one video while it decodes another."""


def _others() -> list[tuple[Path, int, float]]:
    found = []
    for path in _folder().glob("*.json"):
        if path.stem == process_mark():
            continue
        if not is_running(path.stem):
            with suppress(OSError):
                path.unlink(missing_ok=True)
            continue
        entries = read_record(path)
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            found.append((path, int(entries["bytes"]), float(entries["since"])))
    return found


def _held(mark: str) -> int:
    """Return what a process and its workers hold."""
    from psutil import Error, Process

    held = 0
    with suppress(Error, ValueError, OverflowError):
        process = Process(int(mark.split("-")[1]))
        held = process.memory_info().rss
        held += sum(child.memory_info().rss for child in process.children())
    return held


def _folder() -> Path:
    return state_directory("memory")
