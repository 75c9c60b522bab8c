"""A process that makes the videos of one device, one after another.

    python -m hummingbird_edge.serve.worker_process

The first line of its input is JSON: `data`, and the fields of `Worker` that its server knows. It
ends when its input does, which is when its server ends, however that happens; what it has not kept
by then, the next worker does again.
"""

import json
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.errors import HummingbirdError, OutputError, RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.jobs import Jobs
from hummingbird_edge.serve.making import Making, Stopped
from hummingbird_edge.serve.store import Store

__all__ = ["main"]

_IDLE_S = 0.1
"""Between two looks at the queue."""
_RETRY_S = 1.0


@dataclass(slots=True)
class Worker:
    """Takes jobs and makes them."""

    store: Store
    jobs: Jobs
    name: str
    """By which it has jobs; no other worker is or was called so."""
    device: str
    models: dict[str, str]
    """Name to folder."""
    max_memory: int | None
    notes: list[str] = field(default_factory=list)
    loaded: tuple[str, TextToVideo] | None = None
    """The model of the last video; one at a time is in memory."""

    def run(self) -> None:
        """Make videos for ever."""
        while True:
            job = None
            with suppress(sqlite3.OperationalError):  # the disk is full
                job = self.jobs.claim(self.name, self.device, self.models)
            if job is None:
                time.sleep(_IDLE_S)
            else:
                self.make(job)

    def make(self, job: Job) -> None:
        """Make one video, and write down how that ended."""
        done = self._outcome(job)
        if self.loaded is not None:
            self.loaded[1].stages.release()
        while True:
            try:
                self._settle(job, done)
                return
            except sqlite3.OperationalError:  # the disk is full: until there is room
                time.sleep(_RETRY_S)

    def _outcome(self, job: Job) -> dict[str, Any]:
        """Make one video; returns what is to be said of it, nothing where it was stopped."""
        self.notes.clear()
        try:
            pipeline, report = self._pipeline(job.model), partial(self._report, job)
            found = Making(job, self.store.of(job.id), pipeline, report, self.notes).make()
        except Stopped:
            return {}
        except (HummingbirdError, OSError, MemoryError) as error:
            return _failure(
                _code_of(error), str(error) or "there is too little memory: ask for less"
            )
        except Exception as error:  # a fault of this program: the next video may do
            _print_fault(error)
            text = f"an unexpected error, {type(error).__name__}: please report it"
            return _failure("internal_error", text)
        return {"status": "completed", "progress": 100, "stage": None, **found}

    def _settle(self, job: Job, done: dict[str, Any]) -> None:
        is_made = done.get("status") == "completed"
        size = self.store.size(job.id, is_made)
        values = {**done, "completed_at": int(time.time()), "bytes": size}
        if done and self.jobs.report(job, self.name, **values):
            if is_made:  # before, a killed worker could not go on
                self.store.remove_state(job.id)
        # A cancelled video keeps its state, of a deleted one nothing stays.
        elif not self.jobs.update(job.id, bytes=size):
            self.store.remove(job.id)

    def _report(self, job: Job, **values: Any) -> bool:
        """Write down how a video stands; tell whether it is still to be made."""
        try:
            return self.jobs.report(job, self.name, **values)
        except sqlite3.OperationalError:  # the disk is full: the work goes on
            return True

    def _pipeline(self, name: str) -> TextToVideo:
        if self.loaded is None or self.loaded[0] != name:
            self.loaded = None
            pipeline = TextToVideo.from_bundle(
                self.models[name],
                device=self.device,
                max_memory=self.max_memory,
                keep_loaded=False,  # a server may be idle for hours
                notify=self.notes.append,
            )
            self.loaded = name, pipeline
        return self.loaded[1]


def _failure(code: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "error_code": code, "error_message": message}


def _code_of(error: Exception) -> str:
    """Return the word for programs of what went wrong."""
    if isinstance(error, OutputError | OSError):
        return "storage_error"
    return "invalid_value" if isinstance(error, RequestError) else "generation_failed"


def _print_fault(error: Exception) -> None:
    """Print where a fault happened, without its message: that may hold a prompt."""
    lines = traceback.format_tb(error.__traceback__)
    print(f"hb-serve: {type(error).__name__} in a worker\n{''.join(lines)}", file=sys.stderr)


def _end_with_input() -> None:
    """End this process when its server is gone."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def main() -> None:
    """Read the settings and work, until the input ends."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # a terminal and systemd send them to all
        signal.signal(stop, signal.SIG_IGN)
    settings = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    store = Store(Path(settings.pop("data")), 0)
    Worker(store, store.jobs(), **settings).run()


if __name__ == "__main__":
    main()
