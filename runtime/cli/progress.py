"""How `hb-run` shows a video being made, on stderr: a bar on a terminal, else a line a stage."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hummingbird_edge.runtime.command import say

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from hummingbird_edge.runtime.placement.promise import Promise
    from hummingbird_edge.runtime.result import Progress

__all__ = ["Display", "display"]


class Display(Protocol):
    """Hears of each part that is done."""

    def promise(self, promise: "Promise") -> None:
        """Show what is expected."""

    def update(self, progress: "Progress", device: str) -> None:
        """Show that a part is done, on `device`."""


@contextmanager
def display(is_quiet: bool) -> Iterator[Display]:
    """Yield a display that is gone at the end."""
    if is_quiet:
        yield _Nothing()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        with _rich_bar() as bar:
            yield _Bar(bar)


def _rich_bar() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Left(ProgressColumn):
        """Counts down while a part computes."""

        def render(self, task: Task) -> Text:
            return Text(_left(max(0.0, task.fields["ends"] - time.monotonic())))

    columns = (TextColumn("{task.description}"), BarColumn(), Left())
    console = Console(stderr=True, highlight=False)
    # Results are printed meanwhile: onto a pipe as they are, onto a terminal above the bar.
    above = sys.stdout.isatty()
    return RichProgress(*columns, console=console, transient=True, redirect_stdout=above)


class _Nothing:
    def promise(self, promise: "Promise") -> None:
        pass

    def update(self, progress: "Progress", device: str) -> None:
        pass


class _Lines:
    def promise(self, promise: "Promise") -> None:
        say(str(promise))

    def update(self, progress: "Progress", device: str) -> None:
        if progress.index == progress.count:
            say(_text(progress, device))


class _Bar:
    """Moves by the seconds that each part was promised to take."""

    def __init__(self, bar: "RichProgress") -> None:
        self._bar, self._started = bar, time.monotonic()
        self._promise: Promise | None = None
        self._task: TaskID | None = None

    def promise(self, promise: "Promise") -> None:
        say(str(promise))
        self._promise, self._started = promise, time.monotonic()
        ends = self._started + promise.total_s
        self._task = self._bar.add_task("loading", total=promise.total_s, ends=ends)

    def update(self, progress: "Progress", device: str) -> None:
        assert self._promise is not None
        assert self._task is not None
        done, now = self._promise.seconds_until(progress.stage, progress.share), time.monotonic()
        # What is left goes as what is done went.
        pace = (now - self._started) / max(done, 1e-3)
        ends = now + pace * (self._promise.total_s - done)
        text = _text(progress, device)
        self._bar.update(self._task, completed=done, description=text, ends=ends)


def _text(progress: "Progress", device: str) -> str:
    return f"{progress.stage} {progress.index}/{progress.count} on {device}"


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min left" if seconds >= 100 else f"{seconds:.0f} s left"
