"""A graph in native OpenVINO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.errors import DeviceError

__all__ = ["OpenVINOSession"]


class OpenVINOSession:
    """One compiled graph; implements `Session`."""

    def __init__(self, graph: Path, device: Device) -> None:
        self.device = device
        try:
            import openvino
            from openvino import properties

            core = openvino.Core()
        except (ImportError, OSError, RuntimeError) as error:
            raise DeviceError(
                f"OpenVINO is installed and does not start ({last_line(error)}): "
                f"install it again, or choose --device cpu"
            ) from error
        if device.target.split(".")[0] not in {d.split(".")[0] for d in core.available_devices}:
            raise DeviceError(
                f"{device.name} was asked for and OpenVINO has {', '.join(core.available_devices)}"
                f": check the driver, or choose one of those"
            )
        # Left alone it picks bfloat16 where the CPU has it, which the bundle did not ask for.
        config = {properties.hint.inference_precision(): openvino.Type.f32}
        try:
            self._model = core.compile_model(str(graph), device.target, config)
        except RuntimeError as error:
            raise DeviceError(
                f"{device.name} cannot load {graph.parent.name}/{graph.name} "
                f"({last_line(error)}): try --device cpu"
            ) from error
        self._inputs = {name for port in self._model.inputs for name in port.get_names()}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's only output; raises DeviceError where the engine fails."""
        fed = {name: value for name, value in inputs.items() if name in self._inputs}
        try:
            output: NDArray[np.float32] = self._model(fed)[0]
        except RuntimeError as error:
            raise DeviceError(
                f"{self.device.name} failed while computing ({last_line(error)}): try --device cpu"
            ) from error
        return output


def last_line(error: Exception) -> str:
    """Return the line of an OpenVINO error that says what happened; the others say where."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
