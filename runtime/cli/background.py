"""Work on a video that is made already, while the next one computes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Background", "Stopped"]


class Stopped(Exception):
    """Raised in the background where the work in the foreground was stopped."""


class Background:
    """Runs one piece of work at a time in a thread, in the order in which they were given.

    with Background(True) as background:
        background.run(work)        waits for the piece before
    """

    def __init__(self, is_used: bool) -> None:
        """Run each piece at once, in the caller's thread, unless `is_used`."""
        self._pool = ThreadPoolExecutor(1) if is_used else None
        self._last: Future[None] | None = None
        self._is_stopped = threading.Event()

    def run(self, work: Callable[[], None]) -> None:
        """Begin `work` when the piece before is done; raises what that one has raised."""
        if self._pool is None:
            work()
            return
        self._wait()
        self._last = self._pool.submit(work)

    def check(self) -> None:
        """Raise what the last piece has raised, if it is over; waits for nothing."""
        if self._last is not None and self._last.done():
            self._wait()

    def require_going_on(self) -> None:
        """Raise Stopped where nobody waits for the work any more; called amid it."""
        if self._is_stopped.is_set():
            raise Stopped

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Wait for the last piece, which soon ends where the work was stopped."""
        if self._pool is None:
            return
        try:
            if kind is None:
                self._wait()
        finally:
            self._is_stopped.set()
            self._pool.shutdown()
