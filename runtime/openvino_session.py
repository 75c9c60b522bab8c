"""A graph in native OpenVINO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.placement import Option

__all__ = ["OpenVINOSession"]


class OpenVINOSession:
    """One compiled graph; implements `Session`."""

    share = 1.0  # OpenVINO puts a graph on one device, or refuses it

    def __init__(
        self, graph: Path, option: Option, sizes: Mapping[str, int], cache: Path | None
    ) -> None:
        self.option, device = option, option.device
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
        config: dict[str, Any] = {
            properties.hint.inference_precision(): getattr(openvino.Type, _TYPES[option.precision]),
            properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
        }
        if cache is not None:
            # OpenVINO 2026.4 does not tell precisions apart there: a model compiled for float32
            # was taken for bfloat16 and gave NaN.
            config[properties.cache_dir()] = str(cache / option.precision)
        try:
            model = core.read_model(str(graph))
            if sizes and (option.precision == "fp32" or _has_long_sequences(sizes)):
                model.reshape({port.any_name: _shape(port, sizes) for port in model.inputs})
            self._model = core.compile_model(model, device.target, config)
        except RuntimeError as error:
            raise DeviceError(
                f"{device.name} cannot load {graph.parent.name}/{graph.name} "
                f"({last_line(error)}): try --device cpu"
            ) from error
        self._inputs = {name for port in self._model.inputs for name in port.get_names()}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's only output; raises DeviceError where the engine fails."""
        device = self.option.device
        fed = {name: value for name, value in inputs.items() if name in self._inputs}
        try:
            output: NDArray[np.float32] = self._model(fed)[0]
        except RuntimeError as error:
            raise DeviceError(
                f"{device.name} failed while computing ({last_line(error)}): try --device cpu"
            ) from error
        return output


_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_FREE_AXES = {
    2: ("batch", ""),
    4: ("frames", "", "height", "width"),
    5: ("", "", "frames", "height", "width"),
}
"""By rank, the names of an input's axes: OpenVINO forgets those that the graph gave them."""


_SHORT = 8


def _has_long_sequences(sizes: Mapping[str, int]) -> bool:
    """Tell whether fixed sizes are safe below fp32.

    With sizes known OpenVINO fuses attention, and in bfloat16 its fused form is wrong for a handful
    of tokens: 16 dB against fp32 with 2 frames of 4 x 4 latents, even NaN, where the unfused one
    has 35 (OpenVINO 2026.4). Sequences are frames, and pixels eight times coarser than latents.
    """
    pixels = sizes.get("height", 64) * sizes.get("width", 64) // 64
    return min(sizes.get("frames", _SHORT), pixels) >= _SHORT


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
