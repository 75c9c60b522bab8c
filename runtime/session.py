"""What the pipeline asks of an inference engine: load a graph on a device, run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.device import Device

__all__ = ["Session", "open_session"]

Array = NDArray[Any]


class Session(Protocol):
    """A loaded graph."""

    device: Device
    """Where it runs."""

    def run(self, inputs: Mapping[str, Array]) -> NDArray[np.float32]:
        """Return the graph's only output; raises DeviceError where the engine fails."""
        ...


def open_session(graph: Path, device: Device) -> Session:
    """Load `graph` on `device`; raises DeviceError where the device is not there or refuses it."""
    if device.engine == "openvino":
        from hummingbird_edge.runtime.openvino_session import OpenVINOSession

        return OpenVINOSession(graph, device)
    from hummingbird_edge.runtime.onnxruntime_session import ONNXRuntimeSession

    return ONNXRuntimeSession(graph, device)
