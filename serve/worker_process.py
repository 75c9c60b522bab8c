"""A process that makes the videos of one device, one after another.

    python -m hummingbird_edge.serve.worker_process

The first line of its input is JSON: `data`, `device`, `models` (name to folder), `max_memory`. It
ends when its input does, which is when its server ends, however that happens; what it has not kept
by then, the next worker does again.
"""

import json
import os
import shutil
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.files import process_mark
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.serve.jobs import Job, Jobs
from hummingbird_edge.serve.making import Making, Stopped, code_of
from hummingbird_edge.serve.store import Store

__all__ = ["main"]

_IDLE_S = 0.1
"""Between two looks at the queue."""


@dataclass(slots=True)
class Worker:
    """Takes jobs and makes them."""

    store: Store
    device: str
    models: dict[str, str]
    max_memory: int | None
    jobs: Jobs
    notes: list[str] = field(default_factory=list)
    loaded: tuple[str, TextToVideo] | None = None
    """The model of the last video; one at a time is in memory."""

    def run(self) -> None:
        """Make videos for ever."""
        while True:
            job = self.jobs.claim(process_mark(), self.device)
            if job is None:
                time.sleep(_IDLE_S)
            else:
                self.make(job)

    def make(self, job: Job) -> None:
        """Make one video, and report how that ended."""
        folder = self.store.of(job.id)
        self.notes.clear()
        making = Making(job, folder, lambda **v: self._report(job, **v), self.notes)
        done: dict[str, Any] = {}
        pipeline = None
        try:
            pipeline = self._pipeline(job.model)
            found = making.make(pipeline)
            done = {"status": "completed", "progress": 100, "stage": None, **found}
        except Stopped:
            pass
        except (HummingbirdError, OSError, MemoryError) as error:
            text = str(error) or "there is too little memory: ask for less"
            done = {"status": "failed", "error_code": code_of(error), "error_message": text}
        except Exception as error:  # a fault of this program: the next video may do
            _print_fault(error)
            text = f"an unexpected error, {type(error).__name__}: please report it"
            done = {"status": "failed", "error_code": "internal_error", "error_message": text}
        if pipeline is not None:
            pipeline.stages.release()
        self._end(job, done)

    def _end(self, job: Job, done: dict[str, Any]) -> None:
        size = self.store.size(job.id)
        if done and self._report(job, completed_at=time.time(), bytes=size, **done):
            if done["status"] == "completed":  # before, a killed worker could not go on
                self.store.remove_state(job.id)
                self.jobs.update(job.id, bytes=self.store.size(job.id))
            return
        # A cancelled video keeps its state, of a deleted one nothing stays.
        if self.jobs.find(job.id) is None:
            shutil.rmtree(self.store.of(job.id), ignore_errors=True)
        else:
            self.jobs.update(job.id, bytes=size)

    def _report(self, job: Job, **values: Any) -> bool:
        return self.jobs.report(job, process_mark(), **values)

    def _pipeline(self, name: str) -> TextToVideo:
        if name not in self.models:
            raise HummingbirdError(f"the server no longer has the model {name}: give --bundle")
        if self.loaded is None or self.loaded[0] != name:
            self.loaded = None
            pipeline = TextToVideo.from_bundle(
                self.models[name],
                device=self.device,
                max_memory=self.max_memory,
                notify=self.notes.append,
            )
            self.loaded = name, pipeline
        return self.loaded[1]


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
    """Read the settings and work."""
    settings = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    store = Store(Path(settings["data"]), 0)
    jobs = store.jobs()
    Worker(store, settings["device"], settings["models"], settings["max_memory"], jobs).run()


if __name__ == "__main__":
    main()
