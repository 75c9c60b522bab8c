"""How much memory stages take, estimated before they are loaded, and the cap that a user sets.

    one stage   = base + margin + graph + max(load copies of the weights, run copies + alive + held)
    the process = base + what stays of stages before + what this one takes + frames

Copies, and what an engine's own objects and allocator hold, are its habits: copies measured on a
U-Net of 772 million weights, the rest on that of moving shapes in 17 videos of 4 to 32 frames,
64x64 to 384x256, fp32 and int8 (OpenVINO 2026.4, ONNX Runtime 1.32, Linux).
Values alive at once grow with frames and pixels; the bundle says
how many a latent pixel takes, the published network's number stands in where it does not.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hummingbird_edge.runtime.bundle.manifest import Manifest, Stage, StageKind
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.plan import Placement

__all__ = ["parse_memory", "peaks", "readable", "stage_bytes"]

_MARGIN = 48 << 20
"""Of a plan: the frames of a video, the libraries that write it, and what else is not counted."""
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_LIVE_VALUES = {StageKind.UNET: 6400, StageKind.DECODER: 75_000}
"""Of the published networks, for bundles that do not say."""


@dataclass(frozen=True, slots=True)
class _Habit:
    """What an engine does with weights and activations; bytes where nothing else is said."""

    base: int
    """The interpreter, NumPy and the engine, before any weight."""
    graph: int
    """Operators and their kernels of a U-Net; other stages have a fourth."""
    load: float
    """Copies of the weights at most while it loads."""
    run: float
    """Copies it holds while it computes."""
    uncached_run: float
    """The same where the cache of compiled models has no room for this one."""
    held: float
    """Of what a U-Net has alive, what the allocator keeps too when that is freed."""
    max_held: int
    """The most that it keeps: it gives back large blocks."""
    decoder_held: float
    """Of what a decoder has alive."""
    keeps: bool
    """Whether what was alive belongs to the stage until that is freed; else others use it again."""


# Compiled models are kept in a cache, and what runs is read from there: one copy. Where a model has
# no room in the cache, what compiling took stays.
_OPENVINO = _Habit(130 << 20, 64 << 20, 2.6, 1.2, 2.6, 0.2, 100 << 20, 0.0, True)
_ONNXRUNTIME = _Habit(108 << 20, 20 << 20, 1.75, 1.05, 1.05, 3.3, 400 << 20, 0.6, False)
_MAX_DECODER_HELD = 64 << 20
_INT8_GRAPH = 1.6
"""OpenVINO's kernels between quantized products, over those of a float32 graph."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What a stage takes beyond its engine's base, in bytes."""

    loading: int
    """While it loads."""
    loaded: int
    """From then on."""
    alive: int
    """While it computes, in addition."""


def stage_bytes(placement: Placement, stages: Mapping[str, Stage], room: float = math.inf) -> int:
    """Return the bytes that a process needs to load and run a placement, and nothing else.

    `stages` are the manifest's; `room` is how many bytes the cache of compiled models can take.
    """
    need = _need(placement, stages, room)
    base = _habit(placement).base + _MARGIN
    return base + max(need.loading, need.loaded + need.alive)


def peaks(
    placements: Mapping[str, Placement], manifest: Manifest, stays: bool, room: float = math.inf
) -> dict[str, int]:
    """Return the most bytes of a process until each stage of a video is done.

    `stays` says that stages stay in memory when they are done; `room` is that of `stage_bytes`.
    """
    found, base, kept, pool, frames = dict[str, int](), 0, 0, 0, 1
    for name, placement in placements.items():
        need, habit = _need(placement, manifest.stages, room), _habit(placement)
        base = max(base, habit.base)
        pool = need.alive if habit.keeps else max(pool, need.alive)
        running = need.loaded + pool
        if placement.kind is StageKind.UNET:
            frames = placement.sizes["frames"]
        if placement.kind is StageKind.DECODER:
            running += _frame_bytes(placement, manifest) * frames
        found[name] = base + kept + max(need.loading, running)
        if stays:
            kept += need.loaded + (need.alive if habit.keeps else 0)
    return found


def _need(placement: Placement, stages: Mapping[str, Stage], room: float) -> _Need:
    backend, habit = placement.backend, _habit(placement)
    weights = alive = 0.0
    for name, sizes in placement.graphs():
        stage = stages[name]
        latents = sizes.get("frames", 1) * sizes.get("height", 0) * sizes.get("width", 0)
        each = stage.live_values or _LIVE_VALUES.get(stage.kind, 0)
        weights += stage.parameters * _stored_bytes(stage, placement)
        # What is between quantized products is in the device's own precision.
        alive += latents * each * backend.arithmetic.item_bytes
    graph = float(habit.graph)
    if habit.keeps and backend.precision is Precision.INT8:
        graph *= _INT8_GRAPH
    if placement.kind is StageKind.UNET:
        held = min(habit.held * alive, habit.max_held)
    else:
        graph, held = graph / 4, min(habit.decoder_held * alive, _MAX_DECODER_HELD)
    loading = graph + habit.load * weights
    loaded = graph + (habit.run if weights <= room else habit.uncached_run) * weights
    return _Need(int(loading), int(loaded), int(alive + held))


def _stored_bytes(stage: Stage, placement: Placement) -> int:
    """Return the bytes of a weight: OpenVINO keeps what is int8 in a float32 graph as it is."""
    backend = placement.backend
    stored = {v.storage for v in stage.variants if v.precision == backend.graph}
    if stored == {"int8"} and backend.device.engine == "openvino":
        return Precision.INT8.item_bytes
    return backend.precision.item_bytes


def _habit(placement: Placement) -> _Habit:
    return _OPENVINO if placement.backend.device.engine == "openvino" else _ONNXRUNTIME


def _frame_bytes(placement: Placement, manifest: Manifest) -> int:
    """Return the bytes of a decoded frame: in float32 twice, while chunks become one array."""
    latents = placement.sizes["height"] * placement.sizes["width"]
    return 2 * 4 * 3 * latents * manifest.model.vae_downsampling**2


def parse_memory(text: str, option: str = "--max-memory") -> int:
    """Return the bytes of `4GB`, `3.5GiB` or `900M`; raises RequestError, which names `option`."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmg]i?)b?", text.strip().lower())
    if match is None or not 0 < float(match[1]) < 1e9:
        raise RequestError(f"{option} is {text!r}: write a size such as 4GB or 3500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def readable(count: float) -> str:
    """Return bytes as a user writes them, rounded up so that the figure suffices."""
    if count < 10**9:
        return f"{-(-int(count) // 10**6)}MB"
    return f"{-(-int(count) // 10**8) / 10:.1f}GB"
