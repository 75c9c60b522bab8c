"""A graph in native OpenVINO."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.packages import import_openvino
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.devices.resident import return_freed
from hummingbird_edge.runtime.engines.bfloat16 import in_bfloat16
from hummingbird_edge.runtime.engines.compile_cache import CompileCache, Mapped
from hummingbird_edge.runtime.engines.group_norm import keep_layout
from hummingbird_edge.runtime.engines.saturation import halve_weights, saturates
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.errors import DeviceError, device_error

__all__ = ["OpenVINOSession"]


class OpenVINOSession(Session):
    """One compiled graph; implements `Session`."""

    share = 1.0  # OpenVINO puts a graph on one device, or refuses it

    def __init__(
        self,
        graph: Path,
        backend: Backend,
        sizes: Mapping[str, int],
        cache: CompileCache | None,
        notify: Callable[[str], None],
    ) -> None:
        self.backend, device = backend, backend.device
        self._mapped: Mapped | None = None
        self._core = _core_with(device)
        try:
            self._model = self._load(graph, sizes, cache, notify)
        except (RuntimeError, MemoryError) as error:
            raise device_error(
                error,
                f"{device.name} cannot load {graph.parent.name}/{graph.name} "
                f"({last_line(error)}): try --device cpu",
            ) from error
        self._inputs = {name for port in self._model.inputs for name in port.get_names()}
        self._warm_up()

    def _load(
        self,
        graph: Path,
        sizes: Mapping[str, int],
        cache: CompileCache | None,
        notify: Callable[[str], None],
    ) -> Any:
        """Return the compiled model, from `cache` where it was compiled before."""
        openvino = import_openvino()
        target = self.backend.device.target
        if cache is None:
            return self._compiled(graph, sizes)
        name = self._core.get_property(target, "FULL_DEVICE_NAME")
        stage = f"{graph.parent.name}/{graph.name}"
        known = dict(sorted(sizes.items()))
        path = cache.file(stage, known, str(self.backend), name, openvino.get_version(), _FORM)
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # none yet, or damaged
            return self._import(path)
        self._mapped = None  # Windows replaces no file that is open
        notify(f"compiling {graph.parent.name} for {self.backend}, once for this size")
        compiled = self._compiled(graph, sizes)
        if not cache.write(path, compiled.export_model):
            return compiled
        # Compiling leaves weights in several forms with the allocator, importing does not.
        del compiled
        return_freed()
        try:
            return self._import(path)
        except (OSError, ValueError, RuntimeError):  # removed meanwhile, or no engine can read it
            self._mapped = None
            return self._compiled(graph, sizes)

    def _compiled(self, graph: Path, sizes: Mapping[str, int]) -> Any:
        model = self._read(graph, sizes)
        return self._core.compile_model(model, self.backend.device.target, self._config)

    def _import(self, path: Path) -> Any:
        """Load what the cache has; the engine packs weights, then the file's pages go."""
        from openvino import Tensor

        self._mapped = mapped = Mapped(path)  # must outlive the model, which reads from it
        blob = Tensor(np.frombuffer(mapped.model, np.uint8), shared_memory=True)
        compiled = self._core.import_model(blob, self.backend.device.target, self._config)
        mapped.release()
        return compiled

    def _warm_up(self) -> None:
        """Run a graph with free sizes once on the smallest clip, and let the file's pages go.

        With sizes fixed OpenVINO packs weights while it loads; else in the first run, which then
        reads the whole file: at full size 1 s of the first step, and 1.4 GB that stay mapped.
        """
        shapes = {port.any_name: port.partial_shape for port in self._model.inputs}
        if all(shape.is_static for shape in shapes.values()):
            return
        types = {port.any_name: port.element_type.to_dtype() for port in self._model.inputs}
        smallest = {
            name: [axis.get_length() if axis.is_static else _SHORT for axis in shape]
            for name, shape in shapes.items()
        }
        with contextlib.suppress(RuntimeError, MemoryError):  # the first run says what is wrong
            self._model({name: np.zeros(smallest[name], types[name]) for name in shapes})
        if self._mapped is not None:
            self._mapped.release()

    def _read(self, graph: Path, sizes: Mapping[str, int]) -> Any:
        is_cpu = self.backend.device.target == "CPU"
        on_cpu_in_bf16 = self.backend.arithmetic is Precision.BF16 and is_cpu
        halves = is_cpu and self.backend.precision is Precision.INT8 and saturates()
        if on_cpu_in_bf16 or halves:
            # Mapped, the stored weights would stay beside those that take their place.
            self._core.set_property({"ENABLE_MMAP": False})
        model = self._core.read_model(str(graph))
        if sizes and (not on_cpu_in_bf16 or _has_long_sequences(model, sizes)):
            model.reshape({port.any_name: _shape(port, sizes) for port in model.inputs})
        # In float32 its convolutions have the norms' own layout.
        moves = is_cpu and self.backend.precision in (Precision.INT8, Precision.BF16)
        exact = keep_layout(self._core, model) if moves else frozenset[str]()
        if on_cpu_in_bf16 and self.backend.precision is Precision.BF16:
            in_bfloat16(model, exact)
        if halves:
            halve_weights(model)
        return model

    @property
    def _config(self) -> dict[str, Any]:
        openvino = import_openvino()
        from openvino import properties

        # Left alone it picks bfloat16 where the CPU has it, whatever the bundle says.
        precision = getattr(openvino.Type, self.backend.arithmetic.openvino)
        config = {
            properties.hint.inference_precision(): precision,
            properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
        }
        if self.backend.threads is not None and self.backend.device.target == "CPU":
            config[properties.inference_num_threads()] = self.backend.threads
        return config

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return all outputs; raises DeviceError where the engine fails."""
        device = self.backend.device
        fed = {name: value for name, value in inputs.items() if name in self._inputs}
        try:
            found = self._model(fed)
        except (RuntimeError, MemoryError) as error:
            raise device_error(
                error,
                f"{device.name} failed while computing ({last_line(error)}): "
                f"try --device cpu, fewer frames or a smaller size",
            ) from error
        return tuple(found[index] for index in range(len(self._model.outputs)))


def _core_with(device: Device) -> Any:
    """Return OpenVINO's core; raises DeviceError where it does not start or lacks `device`."""
    try:
        core = import_openvino().Core()
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f"openVINO is installed and does not start ({last_line(error)}): "
            f"install it again, or choose --device cpu"
        ) from error
    # Listing devices loads every driver there is: not for the CPU's sake.
    if device.target != "CPU":
        device.require_listed(core.available_devices)
    return core


_FORM = 4
"""Counts changes of how graphs are prepared: what was compiled in another form is not taken."""
_FREE_AXES = {
    2: ("batch", ""),
    4: ("frames", "", "height", "width"),
    5: ("", "", "frames", "height", "width"),
}
"""By rank, the names of an input's axes: OpenVINO forgets those that the graph gave them."""
_CLIP_RANK = 5


_SHORT = 8


def _has_long_sequences(model: Any, sizes: Mapping[str, int]) -> bool:
    """Tell whether fixed sizes are safe on a CPU in bfloat16.

    With sizes known OpenVINO fuses attention, and in bfloat16 its fused form is wrong for a handful
    of tokens: 16 dB against fp32 with 2 frames of 4 x 4 latents, even NaN, where the unfused one
    has 35 (OpenVINO 2026.4). A clip's sequences are its frames, and pixels eight times coarser than
    latents; a picture's, where frames are a batch, are its latents.
    """
    pixels = sizes.get("height", _SHORT) * sizes.get("width", _SHORT)
    if any(len(port.partial_shape) == _CLIP_RANK for port in model.inputs):
        return min(sizes.get("frames", _SHORT), pixels // 64) >= _SHORT
    return pixels >= _SHORT


def _shape(port: Any, sizes: Mapping[str, int]) -> list[int]:
    """Return the shape of an input with its free axes fixed by their names."""
    shape = port.partial_shape
    names = _FREE_AXES.get(len(shape), ())
    return [
        axis.get_length() if axis.is_static else sizes.get(names[index], -1)
        for index, axis in enumerate(shape)
    ]


def last_line(error: Exception) -> str:
    """Return the line of an OpenVINO error that says what happened; the others say where."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
