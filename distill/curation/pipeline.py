"""Run clips through stages: in this process, in processes of this machine, or elsewhere.

A stage is a function from clips to clips. It sees a batch at a time, and knows nothing of other
batches or of where it runs.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Protocol

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.runtime.errors import DeviceError

__all__ = ["Batch", "Each", "Here", "Runner", "Stage"]

Batch = Sequence[Candidate]
Stage = Callable[[Iterable[Candidate]], Iterable[Candidate]]


@dataclass(frozen=True, slots=True)
class Each:
    """A stage that takes clips one by one, and notes the seconds of each."""

    function: Callable[[Candidate], Iterable[Candidate]]

    def __call__(self, clips: Iterable[Candidate]) -> Iterator[Candidate]:
        """Yield what becomes of the clips; one may become several."""
        for clip in clips:
            began = time.perf_counter()
            for found in self.function(clip):
                yield found.but(seconds=(*found.seconds, time.perf_counter() - began))
                began = time.perf_counter()


class Runner(Protocol):
    """Where stages run."""

    def run(self, stages: Sequence[Stage], batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield what becomes of the batches, in any order; raises DeviceError."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """This machine: one process, or several of its own."""

    workers: int = 1

    def run(self, stages: Sequence[Stage], batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield what becomes of the batches, in any order; raises DeviceError."""
        if min(self.workers, len(batches)) <= 1:
            for batch in batches:
                yield _through(stages, batch)
            return
        pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _prepare_worker)
        try:
            for done in as_completed([pool.submit(_through, stages, batch) for batch in batches]):
                yield done.result()
        except BrokenProcessPool as error:
            raise DeviceError(
                "a worker process ended before its work was done, perhaps for want of memory: run "
                "the same command again with fewer --workers, it goes on with what is missing"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _through(stages: Sequence[Stage], batch: Batch) -> Batch:
    clips: Iterable[Candidate] = batch
    for stage in stages:
        clips = stage(clips)
    return list(clips)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end when that does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
