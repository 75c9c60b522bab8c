"""Time one function several times."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Run", "time_runs"]

Run = Callable[[], NDArray[np.float32]]


def time_runs(run: Run, runs: int) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Return the last output, and the seconds of the first run, a warm-up, and of `runs` more."""
    output, seconds = np.zeros(0, np.float32), list[float]()
    for _ in range(1 + runs):
        started = time.perf_counter()
        output = run()
        seconds.append(time.perf_counter() - started)
    return output, tuple(seconds)
