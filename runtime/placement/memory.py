"""How much memory a stage takes, estimated before it is loaded, and the cap that a user sets.

    need = base + max(load copies of the weights, run copies + alive + held)

The copies are engines' habits, measured on a U-Net of 772 million weights and a VAE of 49 million
(OpenVINO 2026.4, ONNX Runtime 1.32, Linux): stored weights are read, widened or narrowed, and
packed. Values alive at once grow with frames and pixels; the bundle says how many a latent pixel
takes, the published network's number stands in where it does not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hummingbird_edge.runtime.bundle.manifest import Stage, StageKind
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.plan import Placement

__all__ = ["parse_memory", "readable", "stage_bytes"]

_BASE = 200 << 20
"""The interpreter, NumPy and an engine, before any weight."""
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_LIVE_VALUES = {StageKind.UNET: 6400, StageKind.DECODER: 75_000}
"""Of the published networks, for bundles that do not say."""


@dataclass(frozen=True, slots=True)
class _Habit:
    """What an engine does with weights and activations."""

    load: float
    """Copies of the weights at most while it loads."""
    run: float
    """Copies it holds while it computes."""
    held: int
    """Bytes at most that the allocator keeps of what a U-Net freed: it gives back large blocks."""


_OPENVINO = _Habit(2.6, 2.1, 0)
_ONNXRUNTIME = _Habit(1.75, 1.05, 400 << 20)


def stage_bytes(placement: Placement, stages: Mapping[str, Stage]) -> int:
    """Return the bytes that a process needs to load and run a placement.

    `stages` are the manifest's.
    """
    backend = placement.backend
    habit = _OPENVINO if backend.device.engine == "openvino" else _ONNXRUNTIME
    weights = alive = 0.0
    for name, sizes in placement.graphs():
        stage = stages[name]
        latents = sizes.get("frames", 1) * sizes.get("height", 0) * sizes.get("width", 0)
        each = stage.live_values or _LIVE_VALUES.get(stage.kind, 0)
        weights += stage.parameters * backend.precision.item_bytes
        # What is between quantized products is in the device's own precision.
        alive += latents * each * backend.arithmetic.item_bytes
    held = min(2 * alive, habit.held) if placement.kind is StageKind.UNET else 0
    running = habit.run * weights + alive + held
    return int(_BASE + max(habit.load * weights, running))


def parse_memory(text: str) -> int:
    """Return the bytes of `4GB`, `3.5GiB` or `900M`; raises RequestError for anything else."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmg]i?)b?", text.strip().lower())
    if match is None or not 0 < float(match[1]) < 1e9:
        raise RequestError(f"--max-memory is {text!r}: write a size such as 4GB or 3500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def readable(count: float) -> str:
    """Return bytes as a user writes them, rounded up so that the figure suffices."""
    if count < 10**9:
        return f"{-(-int(count) // 10**6)}MB"
    return f"{-(-int(count) // 10**8) / 10:.1f}GB"
