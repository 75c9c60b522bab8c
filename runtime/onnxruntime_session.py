"""A graph in ONNX Runtime, on a provider that was really taken."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.errors import DeviceError

__all__ = ["ONNXRuntimeSession"]

_RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
_ERRORS_ONLY = 3


class ONNXRuntimeSession:
    """One loaded graph; implements `Session`."""

    def __init__(self, graph: Path, device: Device) -> None:
        import onnxruntime

        self.device = device
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # An arena keeps the largest activations of a step for good; at full size that is gigabytes.
        options.enable_cpu_mem_arena = False
        if device.name != "cpu":
            options.add_session_config_entry(_RECORD_PLACEMENT, "1")
        if device.name == "dml":
            options.enable_mem_pattern = False
            options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        providers = list(dict.fromkeys([device.target, "CPUExecutionProvider"]))
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:  # the library raises bare exceptions of several kinds
            raise DeviceError(
                f"{device.name} cannot load {graph.parent.name}/{graph.name} "
                f"({_first_line(error)}): try --device cpu, or build the bundle again"
            ) from error
        self._require_provider()

    def _require_provider(self) -> None:
        """Raise where ONNX Runtime, which only warns, put the work elsewhere."""
        taken = self._session.get_providers()
        nodes = self._nodes_on_device()
        if taken[0] != self.device.target or nodes == 0:
            raise DeviceError(
                f"{self.device.name} was asked for and ONNX Runtime uses {taken[-1]} instead: "
                f"check the driver, or choose --device cpu"
            )

    def _nodes_on_device(self) -> int | None:
        """Return how many nodes the provider took, or None where it is not recorded."""
        record = getattr(self._session, "get_provider_graph_assignment_info", None)
        if self.device.name == "cpu" or record is None:
            return None
        return sum(len(part.get_nodes()) for part in record() if part.ep_name == self.device.target)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's only output; raises DeviceError where the engine fails."""
        wanted = {entry.name for entry in self._session.get_inputs()}
        fed = {name: value for name, value in inputs.items() if name in wanted}
        try:
            output: NDArray[np.float32] = self._session.run(None, fed)[0]
        except Exception as error:  # the library raises bare exceptions of several kinds
            raise DeviceError(
                f"{self.device.name} failed while computing ({_first_line(error)}): "
                f"try --device cpu, fewer frames or a smaller size"
            ) from error
        return output


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
