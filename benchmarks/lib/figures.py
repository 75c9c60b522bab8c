"""What a simulated cluster is made of: measured figures and assumptions, each with its source."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Figure", "Figures", "read_figures"]


class Figure(Struct, frozen=True, forbid_unknown_fields=True):
    """One number."""

    value: float
    source: str
    """The command or result it is from; or why it is assumed."""


class Figures(Struct, frozen=True, forbid_unknown_fields=True):
    """Every number of the simulation; names end in the unit."""

    bundle_bytes: float
    piece_bytes: float
    """Of a bundle, in one request."""
    video_s: float
    """Of one worker."""
    video_bytes: float
    start_s: float
    """Of a worker, until its model is loaded and compiled."""
    job_s: float
    """Of the driver alone, for each job, Ray's part too."""
    spread_ratio: float
    """By which the times of videos and blocks differ from the mean, at most, to either side."""
    node_bits_per_s: float
    """Of a node's link; the head's is as fast."""
    store_bits_per_s: float
    """Of the object store, all nodes together."""
    requests_per_s: float
    """Of the object store, for the prefix that all share."""
    tasks_per_s: float
    """That Ray's head hands out."""
    actors_per_s: float
    """That Ray's head starts."""
    cores: float
    """Of a node: one worker makes videos with all of them, clips are curated on each."""
    clip_bytes: float
    clip_s: float
    """Of one core: a clip is decoded, measured and fingerprinted."""
    clip_requests: float
    """Objects of the store that one clip is read from."""
    block_clips: float
    """In one task."""
    collect_s: float
    """Of the driver alone, for each clip's row."""
    decide_s: float
    """Of the driver alone, for each clip: which are copies of others."""
    kept_ratio: float
    """Of clips that come into shards."""
    shard_clips: float


@dataclass(frozen=True, slots=True)
class Sourced:
    """Figures, and where each is from."""

    figures: Figures
    measured: dict[str, Figure]
    assumed: dict[str, Figure]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    measured: dict[str, Figure]
    assumed: dict[str, Figure]


def read_figures(path: Path) -> Sourced:
    """Read `{"measured": {NAME: {"value", "source"}}, "assumed": ...}`; raises RequestError."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        every = {**file.measured, **file.assumed}
        figures = msgspec.convert({n: each.value for n, each in every.items()}, Figures)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} holds no figures of a cluster: {error}") from error
    not_positive = [n for n, each in every.items() if each.value <= 0 and n != "spread_ratio"]
    if not_positive:
        raise RequestError(f"{path}: {', '.join(not_positive)} must be above 0")
    return Sourced(figures, file.measured, file.assumed)
