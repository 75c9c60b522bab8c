"""A graph in ONNX Runtime, on a provider that was really taken."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.packages import import_onnxruntime
from hummingbird_edge.runtime.devices.plugins import plugin_devices
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.errors import DeviceError, device_error

__all__ = ["EXACT_INT8", "ONNXRuntimeSession", "first_line"]

EXACT_INT8 = "session.x64quantprecision"
"""Without VNNI the CPU's int8 products saturate (`saturation`); with this they do not."""
_RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
_ERRORS_ONLY = 3
_CPU = "CPUExecutionProvider"


class ONNXRuntimeSession(Session):
    """One loaded graph; implements `Session`."""

    _profile: TemporaryDirectory[str] | None = None

    def __init__(
        self,
        graph: Path,
        backend: Backend,
        sizes: Mapping[str, int],
        cache: CompileCache | None,
        notify: Callable[[str], None],
        kind: StageKind | None = None,
    ) -> None:
        onnxruntime = import_onnxruntime()

        self.backend, device = backend, backend.device
        options = onnxruntime.SessionOptions()
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        options.log_severity_level = _ERRORS_ONLY
        if backend.threads is not None:
            options.intra_op_num_threads = min(backend.threads, usable_cores())
        elif usable_cores() < (os.cpu_count() or 1):
            # By itself it binds a thread to each core of the machine, allowed or not.
            options.intra_op_num_threads = usable_cores()
        # An arena keeps the largest activations of a step for good, and a memory pattern allocates
        # them before they are needed. A buffer planned for reuse is held until its last use, and a
        # U-Net's way up uses what its way down did: at full size that is 3 GB more, and no faster.
        # In a decoder, where sizes only grow, nothing is held, and reuse saves a fifth of the time.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.enable_mem_reuse = kind is not StageKind.UNET
        if device.name != "cpu":
            options.add_session_config_entry(_RECORD_PLACEMENT, "1")
        else:
            options.add_session_config_entry(EXACT_INT8, "1")
        if device.family == "dml":
            options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        if _needs_profile(device):
            self._profile = TemporaryDirectory()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profile.name, "run"))
        target, providers = device.target, list[Any]()
        if device.is_plugin:
            found = plugin_devices(device.family, device.kind)
            target = found[0].ep_name
            options.add_provider_for_devices(found[:1], {})
        elif device.name != "cpu":
            providers = [(target, self._options(graph, sizes, cache, notify)), _CPU]
        else:
            providers = [_CPU]
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=providers or None
            )
        except Exception as error:  # the library raises bare exceptions of several kinds
            raise device_error(
                error,
                f"{device.name} cannot load {graph.parent.name}/{graph.name} "
                f"({first_line(error)}): try --device cpu, or build the bundle again",
            ) from error
        self._target, taken = target, self._session.get_providers()
        self.share = self._share_on_device() if taken[0] == target else 0.0
        self._require_share(taken[-1])

    def _options(
        self,
        graph: Path,
        sizes: Mapping[str, int],
        cache: CompileCache | None,
        notify: Callable[[str], None],
    ) -> dict[str, str]:
        """Return the provider's own options."""
        device = self.backend.device
        adapter = {} if device.adapter is None else {"device_id": str(device.adapter)}
        if device.family != "migraphx" or cache is None:
            return adapter
        # Each shape compiles for minutes; the second run reads what the first one made.
        known = {**dict(sorted(sizes.items())), **adapter}
        folder = cache.file(graph.parent.name, graph.name, known).with_suffix("")
        if not folder.is_dir():
            notify(
                f"compiling {graph.parent.name} for {self.backend}, once for this size: "
                f"MIGraphX may take half an hour"
            )
            folder.mkdir(parents=True)
        return {**adapter, "migraphx_model_cache_dir": str(folder)}

    def _require_share(self, instead: str) -> None:
        if not self.share:
            raise DeviceError(
                f"{self.backend.device.name} was requested and ONNX Runtime uses {instead}: "
                f"check the driver, or choose --device cpu"
            )

    def _share_on_device(self) -> float:
        """Return the share of nodes that the provider took, which ONNX Runtime never says aloud.

        1 on the CPU, and before the first run where that is profiled.
        """
        if self.backend.device.name == "cpu" or self._profile is not None:
            return 1.0
        counts = Counter[str]()
        for part in self._session.get_provider_graph_assignment_info():
            counts[part.ep_name] += len(part.get_nodes())
        return counts[self._target] / max(1, counts.total())

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return all outputs; raises DeviceError where the engine fails."""
        wanted = {entry.name for entry in self._session.get_inputs()}
        fed = {name: value for name, value in inputs.items() if name in wanted}
        try:
            outputs = tuple(self._session.run(None, fed))
        except Exception as error:  # the library raises bare exceptions of several kinds
            raise device_error(
                error,
                f"{self.backend.device.name} failed while computing ({first_line(error)}): "
                f"try --device cpu, fewer frames or a smaller size",
            ) from error
        if self._profile is not None:
            self.share = self._share_in_profile()
            self._require_share(_CPU)
        return outputs

    def _share_in_profile(self) -> float:
        """Return the share of the nodes that ran there, and end the profile."""
        assert self._profile is not None
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        self._profile.cleanup()
        self._profile = None
        ran = Counter(
            event["args"].get("provider")
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        )
        return ran[self._target] / max(1, ran.total())


def _needs_profile(device: Device) -> bool:
    """Tell whether the share of a device is known from a profile alone.

    Old releases record no assignment, and WebGPU's record is of a second pass only (1.27).
    """
    session = import_onnxruntime().InferenceSession
    is_recorded = hasattr(session, "get_provider_graph_assignment_info")
    return device.name == "webgpu" or (device.name != "cpu" and not is_recorded)


def first_line(error: Exception) -> str:
    """Return what the library says, without its further lines."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
