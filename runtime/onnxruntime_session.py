"""A graph in ONNX Runtime, on a provider that was really taken."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.compiled import compiled_file
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.placement import Option

__all__ = ["ONNXRuntimeSession"]

_RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
_ERRORS_ONLY = 3


class ONNXRuntimeSession:
    """One loaded graph; implements `Session`."""

    def __init__(
        self,
        graph: Path,
        option: Option,
        sizes: Mapping[str, int],
        cache: Path | None,
        notify: Callable[[str], None],
    ) -> None:
        import onnxruntime

        self.option, device = option, option.device
        options = onnxruntime.SessionOptions()
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        options.log_severity_level = _ERRORS_ONLY
        # An arena keeps the largest activations of a step for good; at full size that is gigabytes.
        options.enable_cpu_mem_arena = False
        if device.name != "cpu":
            options.add_session_config_entry(_RECORD_PLACEMENT, "1")
        if device.name == "dml":
            options.enable_mem_pattern = False
            options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        providers: list[Any] = [device.target]
        if device.name == "migraphx" and cache is not None:
            # Each shape compiles for minutes; the second run reads what the first one made.
            known = dict(sorted(sizes.items()))
            folder = compiled_file(cache, graph.parent.name, graph.name, known).with_suffix("")
            if not folder.is_dir():
                notify(
                    f"compiling {graph.parent.name} for {option}, once for this size: "
                    f"MIGraphX may take half an hour"
                )
                folder.mkdir(parents=True)
            providers = [(device.target, {"migraphx_model_cache_dir": str(folder)})]
        providers += [] if device.name == "cpu" else ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:  # the library raises bare exceptions of several kinds
            raise DeviceError(
                f"{device.name} cannot load {graph.parent.name}/{graph.name} "
                f"({_first_line(error)}): try --device cpu, or build the bundle again"
            ) from error
        taken = self._session.get_providers()
        self.share = self._share_on_device() if taken[0] == device.target else 0.0
        if not self.share:
            raise DeviceError(
                f"{device.name} was asked for and ONNX Runtime uses {taken[-1]} instead: "
                f"check the driver, or choose --device cpu"
            )

    def _share_on_device(self) -> float:
        """Return the share of nodes that the provider took, which ONNX Runtime never says aloud.

        1 on the CPU, and where a release does not record it.
        """
        record = getattr(self._session, "get_provider_graph_assignment_info", None)
        if self.option.device.name == "cpu" or record is None:
            return 1.0
        counts = Counter[str]()
        for part in record():
            counts[part.ep_name] += len(part.get_nodes())
        return counts[self.option.device.target] / max(1, counts.total())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's only output; raises DeviceError where the engine fails."""
        wanted = {entry.name for entry in self._session.get_inputs()}
        fed = {name: value for name, value in inputs.items() if name in wanted}
        try:
            output: NDArray[np.float32] = self._session.run(None, fed)[0]
        except Exception as error:  # the library raises bare exceptions of several kinds
            raise DeviceError(
                f"{self.option.device.name} failed while computing ({_first_line(error)}): "
                f"try --device cpu, fewer frames or a smaller size"
            ) from error
        return output


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
