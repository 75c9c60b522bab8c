"""What the pipeline asks of an inference engine: load a graph on a device, run it.

Graphs leave frames, height and width free, so that one serves every video. A session fixes them:
engines plan memory and choose kernels for sizes they know.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.devices.backend import Backend

__all__ = ["Session", "open_session"]

Array = NDArray[Any]


class Session(Protocol):
    """A loaded graph."""

    backend: Backend
    """Where and in which precision it runs."""

    share: float
    """Share of its nodes that the device took, in [0, 1]."""

    def run(self, inputs: Mapping[str, Array]) -> NDArray[np.float32]:
        """Return the graph's first output; raises DeviceError where the engine fails."""
        return self.run_all(inputs)[0]

    def run_all(self, inputs: Mapping[str, Array]) -> tuple[NDArray[np.float32], ...]:
        """Return all outputs in their order; raises DeviceError where the engine fails."""
        ...


def open_session(
    graph: Path,
    backend: Backend,
    sizes: Mapping[str, int] | None = None,
    cache: Path | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Session:
    """Load `graph`; raises DeviceError where the device is not there or refuses it.

    `sizes` fixes free axes by their names (`frames`, `height`, `width`, `batch`), or none.
    `cache` is a folder for compiled models of engines that compile; `notify` hears of it before a
    compilation that is not there yet.
    """
    if backend.device.engine == "openvino":
        from hummingbird_edge.runtime.engines.openvino import OpenVINOSession

        return OpenVINOSession(graph, backend, sizes or {}, cache, notify)
    from hummingbird_edge.runtime.engines.onnxruntime import ONNXRuntimeSession

    return ONNXRuntimeSession(graph, backend, sizes or {}, cache, notify)
