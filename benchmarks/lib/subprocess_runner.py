"""Measure a row in a subprocess: its peak memory is its own, and a crash costs one row."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TypeVar

from hummingbird_edge.benchmarks.lib.record import Row, require_finite
from hummingbird_edge.runtime.devices.cpu import usable_cores

__all__ = ["error_summary", "run_in_subprocess"]

Task = TypeVar("Task")

_SHORT_S = 60.0
"""A row that takes longer is measured in one process."""
_MAX_SUMMARY = 200


def run_in_subprocess(
    measure: Callable[[Task], Row], task: Task, name: str, processes: int = 1
) -> Row:
    """Return `measure(task)`, or a failed row `name` with the reason.

    `measure` is a function of a module, or a method of a class there. A short row is repeated in up
    to `processes` fresh processes, one after the other, and the row holds the measurements of all:
    from one process to the next a machine drifts by more than the runs inside one show. The first
    failure ends the row. Ctrl-C ends the subprocess too.
    """
    started, rows = time.perf_counter(), list[Row]()
    while len(rows) < processes and (not rows or time.perf_counter() - started < _SHORT_S):
        row = _run_once(measure, task, name)
        if row.failure:
            return row
        rows.append(row)
    measures = {key: sum((row.measures[key] for row in rows), ()) for key in rows[0].measures}
    metadata = {**rows[0].metadata, "processes": len(rows)}
    return replace(rows[0], measures=measures, metadata=metadata)


def error_summary(error: Exception) -> str:
    """Return the line of a message that says why; OpenVINO's first line says where."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith("Exception from")]
    return (reasons or lines or [type(error).__name__])[0].strip()[:_MAX_SUMMARY]


def _run_once(measure: Callable[[Task], Row], task: Task, name: str) -> Row:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, measure, task, name).result()
        except BrokenProcessPool:
            return Row(name, failure="its process was killed or crashed: it may have lacked memory")


def _measure(measure: Callable[[Task], Row], task: Task, name: str) -> Row:
    """Measure in this process; errors become a row here, since not all of them can be pickled."""
    try:
        row = require_finite(measure(task))
    except Exception as error:  # engines and other quantizers raise any class
        return Row(name, failure=error_summary(error))
    return replace(row, metadata={**row.metadata, "threads": usable_cores()})
