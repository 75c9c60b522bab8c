"""A row measured in a process of its own: its peak memory is its own, and its end takes nothing."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TypeVar

from hummingbird_edge.benchmarks.lib.record import Row, sound
from hummingbird_edge.runtime.devices.cpu import usable_cores

__all__ = ["measure_apart", "reason_of"]

Task = TypeVar("Task")


def measure_apart(measure: Callable[[Task], Row], task: Task, name: str) -> Row:
    """Return `measure(task)`; where that raises or is killed, a row `name` with the reason.

    `measure` is a function that a module or a class there has. Ctrl-C ends both processes.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(_measured, measure, task, name).result()
        except BrokenProcessPool:
            reason = "its process was killed or crashed, perhaps for want of memory"
            return Row(name, failure=reason)


def reason_of(error: Exception) -> str:
    """Return the line of a message that says why: OpenVINO's begins with where it was thrown."""
    lines = str(error).strip().splitlines()
    telling = [line for line in lines if line.strip() and not line.startswith("Exception from")]
    return (telling or lines or [type(error).__name__])[0].strip()[:200]


def _measured(measure: Callable[[Task], Row], task: Task, name: str) -> Row:
    """Measure, and keep errors here: not all of them survive the way between processes."""
    try:
        row = sound(measure(task))
    except Exception as error:  # engines and other people's quantizers raise what they like
        return Row(name, failure=reason_of(error))
    return replace(row, facts={**row.facts, "threads": usable_cores()})
