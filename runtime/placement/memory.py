"""How much memory a stage takes, told before it is loaded, and the cap that a user sets.

    need = base + max(load copies of the weights, run copies + alive + held)

The copies are engines' habits, measured on a U-Net of 772 million weights and a VAE of 49 million
(OpenVINO 2026.4, ONNX Runtime 1.32, Linux): stored weights are read, widened or narrowed, and
packed. Values alive at once grow with frames and pixels; the bundle says how many a latent pixel
takes, the published network's number stands in where it does not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.plan import Placement

__all__ = ["machine_bytes", "parse_memory", "readable", "stage_bytes"]

_BASE = 200 << 20
"""The interpreter, NumPy and an engine, before any weight."""
_MAX = 10**15
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_LIVE_VALUES = {"unet": 6400, "vae_decoder": 75_000, "tiny_decoder": 12_500}
_ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_WEIGHT_BYTES = {**_ITEM_BYTES, "int8": 1}


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


def stage_bytes(way: Placement, stages: Mapping[str, Any]) -> int:
    """Return the bytes that a process needs to load and run a stage in `way`.

    `stages` are the manifest's.
    """
    backend = way.backend
    habit = _OPENVINO if backend.device.engine == "openvino" else _ONNXRUNTIME
    # What is between quantized products is in the device's own precision.
    kind = backend.device.precisions()[0] if backend.precision == "int8" else backend.precision
    item = _ITEM_BYTES[kind]
    weights = alive = 0.0
    for name, sizes in way.graphs():
        entry = stages.get(name, {})
        latents = sizes.get("frames", 1) * sizes.get("height", 0) * sizes.get("width", 0)
        each = _number(entry.get("live_values")) or _LIVE_VALUES.get(name, 0)
        weights += _number(entry.get("parameters")) * _WEIGHT_BYTES[backend.precision]
        alive += latents * each * item
    held = min(2 * alive, habit.held) if way.stage == "unet" else 0
    running = habit.run * weights + alive + held
    return int(_BASE + max(habit.load * weights, running))


def _number(entry: object) -> int:
    """Return a count from a manifest; whatever else stands there counts as nothing."""
    return entry if isinstance(entry, int) and 0 < entry < _MAX else 0


def parse_memory(text: str) -> int:
    """Return the bytes of `4GB`, `3.5GiB` or `900M`; raises RequestError for anything else."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmg]i?)b?", text.strip().lower())
    if match is None or not 0 < float(match[1]) < 1e9:
        raise RequestError(f"--max-memory is {text!r}: write a size such as 4GB or 3500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def readable(count: float) -> str:
    """Return bytes as a user writes them, rounded up so that the figure suffices."""
    if count < 10**9:
        return f"{-(-int(count) // 10**7) * 10}MB"
    return f"{-(-int(count) // 10**8) / 10:.1f}GB"


def machine_bytes() -> int:
    """Return the memory that this machine has."""
    import psutil

    return psutil.virtual_memory().total
