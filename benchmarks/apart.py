"""A row measured in a process of its own: its peak memory is its own, and its end takes nothing."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from hummingbird_edge.benchmarks.record import Row

__all__ = ["measure_apart"]

Task = TypeVar("Task")


def measure_apart(measure: Callable[[Task], Row], task: Task, name: str) -> Row:
    """Return `measure(task)`; where that raises or is killed, a row `name` with the reason.

    `measure` is a module's function. Ctrl-C ends both processes.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(measure, task).result()
        except BrokenProcessPool:
            return Row(name, failure="its process was killed: most likely out of memory")
        except Exception as error:  # engines and other people's quantizers raise what they like
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Row(name, failure=lines[0][:200])
