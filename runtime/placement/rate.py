"""How many operations a second a backend does, measured in half a second."""

import statistics
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.worker import Limits, Worker, needs_worker
from hummingbird_edge.runtime.errors import DeviceError

__all__ = ["CHAIN", "FOLDER", "SIDE", "rate"]

FOLDER = Path(__file__).parent / "products"
"""Chains of matrix products, one graph a precision; `kernels.products` writes them."""
SIDE, CHAIN = 1024, 4
"""Rows and columns of every matrix, and how many products follow each other."""
_ENOUGH_S = 0.5


@cache
def rate(backend: Backend) -> float | None:
    """Return the operations a second of large products; None where the device does not do them.

    It is not kept for the next process: the machine may have been busy.
    """
    opener = Worker(Limits(60, 60)).open if needs_worker(backend.device) else open_session
    x, seconds = np.ones((SIDE, SIDE), np.float32), list[float]()
    with suppress(DeviceError):
        session = opener(FOLDER / f"{backend.graph}.onnx", backend, {"rows": SIDE})
        session.run({"x": x})
        while sum(seconds) < _ENOUGH_S:
            started = time.perf_counter()
            session.run({"x": x})
            seconds.append(time.perf_counter() - started)
        return CHAIN * 2.0 * SIDE**3 / statistics.median(seconds)
    return None
