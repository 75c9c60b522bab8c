"""How long a video will take and how much memory, said before it begins.

What this machine's earlier videos took comes first, then what `--tune` measured, then earlier
videos of other sizes, by their operations; else an estimate from operations and the device's rate.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import Stage, StageKind
from hummingbird_edge.runtime.placement.history import History, StageRecord
from hummingbird_edge.runtime.placement.memory import peaks, readable
from hummingbird_edge.runtime.placement.plan import Placement, Sizes
from hummingbird_edge.runtime.placement.rate import rate

__all__ = ["Promise", "Source", "StagePromise", "promise", "stage_flops"]

_FLOPS_OF_A_WEIGHT = {StageKind.UNET: 0.25, StageKind.DECODER: 12.3, StageKind.TEXT_ENCODER: 150.0}
"""For each latent pixel, in the published networks: for bundles that do not say."""
_SHARE_OF_RATE = {"openvino": 0.75, "onnxruntime": 0.5}
"""What networks reach of the rate of large products."""
_RUN_S, _LOAD_S, _BYTES_PER_S = 0.02, 0.5, 4e8
"""Of a run and a load that compute nothing, and of weights that are read and packed."""
_CACHED = 0.35
"""Of the seconds of a load that compiles, what a later one takes."""
_SMALL_FLOPS, _SMALL_RATE = 1e11, 4e10
"""Below this much work a rate is assumed: to measure it would take as long."""


class Source(str, Enum):
    """What a promise rests on."""

    EARLIER = "earlier videos"
    TUNED = "--tune"
    SCALED = "earlier videos of other sizes"
    ESTIMATED = "an estimate"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class StagePromise:
    """What is expected of one stage."""

    placement: Placement
    parts: int
    """A text encoder has one, a U-Net one a step, a decoder one a chunk of frames."""
    part_s: float
    load_s: float
    memory_bytes: int
    source: Source
    compiles: bool
    """Whether it was never loaded at this size: an engine may compile first."""

    @property
    def total_s(self) -> float:
        """Seconds, loading included."""
        return self.load_s + self.parts * self.part_s

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "device": self.placement.backend.device.name,
            "precision": str(self.placement.backend.precision),
            "parts": self.parts,
            "part_s": round(self.part_s, 4),
            "load_s": round(self.load_s, 4),
            "memory_bytes": self.memory_bytes,
            "source": str(self.source),
            "compiles": self.compiles,
        }


@dataclass(frozen=True, slots=True)
class Promise:
    """What is expected of a video."""

    stages: Mapping[str, StagePromise]

    @property
    def total_s(self) -> float:
        """Seconds from the first stage's loading to the last frame."""
        return sum(stage.total_s for stage in self.stages.values())

    def seconds_until(self, stage: str, share: float) -> float:
        """Return when `share` of a stage, in [0, 1], is to be done: seconds from the beginning."""
        seconds = 0.0
        for name, each in self.stages.items():
            if name == stage:
                return seconds + each.load_s + share * each.parts * each.part_s
            seconds += each.total_s
        return seconds

    @property
    def memory_bytes(self) -> int:
        """The most that the process is expected to hold."""
        return max(stage.memory_bytes for stage in self.stages.values())

    @property
    def source(self) -> Source:
        """What the least certain of its larger parts rests on."""
        order = list(Source)
        large = [s for s in self.stages.values() if s.total_s > 0.1 * self.total_s]
        return max((stage.source for stage in large), key=order.index)

    def __str__(self) -> str:
        loading = sum(stage.load_s for stage in self.stages.values())
        where = {str(stage.placement.backend) for stage in self.stages.values()}
        backend = f" on {next(iter(where))}" if len(where) == 1 else ""
        parts = [_described(stage, not backend) for stage in self.stages.values()]
        first = ", compiled first" if any(s.compiles for s in self.stages.values()) else ""
        return (
            f"about {_seconds(self.total_s)}{backend}: {', '.join(parts)}, "
            f"loading {_seconds(loading)}{first}; {readable(self.memory_bytes)} of memory "
            f"(from {self.source})"
        )

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "total_s": round(self.total_s, 3),
            "memory_bytes": self.memory_bytes,
            "source": str(self.source),
            "stages": {name: stage.as_dict() for name, stage in self.stages.items()},
        }


_NAMES = {
    "text_encoder": "text",
    "unet": "U-Net",
    "vae_decoder": "VAE",
    "tiny_decoder": "tiny decoder",
}


def promise(
    bundle: Bundle,
    placements: Mapping[str, Placement],
    parts: Mapping[str, int],
    history: History,
    tuned_s: Mapping[str, float],
    loaded: Collection[str] = (),
    stays: bool = False,
    room: float = math.inf,
) -> Promise:
    """Return what to expect of `placements`, each with so many `parts`.

    `tuned_s` has the seconds of a part that `--tune` measured; `loaded` are stages in memory, and
    `stays` says that the others stay there too; `room` is what the cache of compiled models has.
    """
    stages = bundle.manifest.stages
    memory = peaks(placements, bundle.manifest, stays, room)
    work = sum(
        parts[name] * stage_flops(stages[name], placement.sizes)
        for name, placement in placements.items()
    )
    known = {
        name: _of_stage(
            placement,
            parts[name],
            stages[name],
            history,
            memory[name],
            tuned_s.get(name),
            work < _SMALL_FLOPS,
            stays,
        )
        for name, placement in placements.items()
    }
    return Promise(
        {
            name: replace(stage, load_s=0.0, compiles=False) if name in loaded else stage
            for name, stage in known.items()
        }
    )


def stage_flops(stage: Stage, sizes: Sizes) -> float:
    """Return the operations of one run; a text encoder's sizes are prompts."""
    each = stage.flops or _FLOPS_OF_A_WEIGHT.get(stage.kind, 1.0) * stage.parameters
    if stage.kind is StageKind.TEXT_ENCODER:
        return each * sizes.get("batch", 1)
    return each * sizes["frames"] * sizes["height"] * sizes["width"]


def _of_stage(
    placement: Placement,
    parts: int,
    stage: Stage,
    history: History,
    memory: int,
    tuned_s: float | None,
    is_small: bool,
    stays: bool,
) -> StagePromise:
    known = history.find(placement)
    if known is not None:
        memory = max(known.peak_bytes, memory) if stays else known.peak_bytes or memory
        load_s = known.load_s or _CACHED * known.compile_s
        return StagePromise(placement, parts, known.part_s, load_s, memory, Source.EARLIER, False)
    other = next(iter(history.similar(placement)), None)
    compiles = placement.backend.device.name != "cpu"  # ONNX Runtime's kernels are ready
    load_s = _load_s(placement, stage, other and other[1])
    if tuned_s is not None:
        return StagePromise(placement, parts, tuned_s, load_s, memory, Source.TUNED, compiles)
    flops = stage_flops(stage, placement.sizes)
    if other is not None:
        sizes, record = other
        part_s = record.part_s * flops / stage_flops(stage, sizes)
        if flops >= stage_flops(stage, sizes):  # more work takes no less memory
            memory = max(memory, record.peak_bytes)
        return StagePromise(placement, parts, part_s, load_s, memory, Source.SCALED, compiles)
    speed = _SMALL_RATE if is_small else rate(placement.backend) or _SMALL_RATE
    part_s = _RUN_S + flops / (speed * _SHARE_OF_RATE[placement.backend.device.engine])
    return StagePromise(placement, parts, part_s, load_s, memory, Source.ESTIMATED, compiles)


def _described(stage: StagePromise, names_backend: bool) -> str:
    times = f"{stage.parts} x " if stage.parts > 1 else ""
    backend = f" on {stage.placement.backend}" if names_backend else ""
    name = _NAMES.get(stage.placement.stage, stage.placement.stage)
    return f"{name} {times}{_seconds(stage.part_s)}{backend}"


def _load_s(placement: Placement, stage: Stage, other: StageRecord | None) -> float:
    """Return the seconds to load a stage that was never loaded at this size."""
    if other is not None:
        return max(other.compile_s, other.load_s)
    weights = stage.parameters * placement.backend.precision.item_bytes
    return _LOAD_S + weights / _BYTES_PER_S


def _seconds(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds / 60:.1f} min"
    digits = 0 if seconds >= 10 else 1 if seconds >= 1 else 2
    return f"{seconds:.{digits}f} s"
