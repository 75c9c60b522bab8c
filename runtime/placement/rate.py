"""How many operations a second a backend does: measured once in half a second, then remembered."""

import statistics
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.worker import Limits, Worker, needs_worker
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.files import read_record, record_path, write_record
from hummingbird_edge.runtime.placement.probe import environment

__all__ = ["FOLDER", "rate"]

FOLDER = Path(__file__).parent / "products"
"""Chains of matrix products, one graph a precision; `kernels.products` writes them."""
_SIDE, _CHAIN = 1024, 4
_ENOUGH_S = 0.5


def rate(backend: Backend) -> float | None:
    """Return the operations a second of large products; None where the device does not do them."""
    path = record_path("rates", environment())
    known = read_record(path)
    found = known.get(str(backend))
    if not isinstance(found, float):
        found = _measure(backend)
        if found is not None:
            write_record(path, {**known, str(backend): found})
    return found


def _measure(backend: Backend) -> float | None:
    opener = Worker(Limits(60, 60)).open if needs_worker(backend.device) else open_session
    x, seconds = np.ones((_SIDE, _SIDE), np.float32), list[float]()
    with suppress(DeviceError):
        session = opener(FOLDER / f"{backend.graph}.onnx", backend, {"rows": _SIDE})
        session.run({"x": x})
        while sum(seconds) < _ENOUGH_S:
            started = time.perf_counter()
            session.run({"x": x})
            seconds.append(time.perf_counter() - started)
        return _CHAIN * 2.0 * _SIDE**3 / statistics.median(seconds)
    return None
