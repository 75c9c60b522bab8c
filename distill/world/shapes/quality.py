"""How good a clip of shapes looks: three of VBench's dimensions, from 0 to 1.

VBench (Huang et al. 2024, arXiv:2311.17982) measures with large networks whether the subject stays
the same, whether still parts flicker and whether motion is smooth. In this world the judge's own
measurements suffice for all three; rendered clips have the highest scores that can be reached.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.world.shapes.blobs import grown
from hummingbird_edge.distill.world.shapes.judge import Reading, Track, read_clip

__all__ = ["Quality", "assess"]

Floats = NDArray[np.float64]

FLICKER_SCALE = 0.05  # of full brightness; a ground that changes this much a frame scores 0
JERK_SCALE = 0.05  # of the frame's side; a centre this far off the line of its neighbours scores 0


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores in [0, 1], higher is better; 0 where nothing stands out from a plain ground."""

    subject_consistency: float = 0.0
    """How alike the subject's looks are in neighbouring frames and to the first one."""
    flicker: float = 0.0
    """How still the ground is (VBench's temporal flickering)."""
    motion_smoothness: float = 0.0
    """How near each position is to the middle of its neighbours'."""


def assess(frames: NDArray[np.uint8]) -> Quality:
    """Score `frames` (T, H, W, 3) uint8."""
    reading = read_clip(frames)
    if reading is None or not reading.tracks:
        return Quality()
    clip = frames.astype(np.float64) / 255
    looks = [
        consistency(descriptors(clip[seen], weight[seen], track))
        for seen, weight, track in zip(reading.seen, reading.weights, reading.tracks, strict=True)
    ]
    return Quality(
        subject_consistency=float(np.mean(looks)),
        flicker=stillness(clip, reading),
        motion_smoothness=float(np.mean([smoothness(track) for track in reading.tracks])),
    )


def descriptors(clip: Floats, weight: Floats, track: Track) -> Floats:
    """Return what the subject looks like in each frame, (T, 7): colour, compactness, symmetry."""
    colour = np.einsum("thw,thwc->tc", weight, clip) / weight.sum((1, 2))[:, None]
    symmetry = np.abs(track.symmetry) / np.array([0.8, 0.6, 1.8])
    return np.concatenate([colour, track.fill[:, None], symmetry], axis=1)


def consistency(looks: Floats) -> float:
    """Return the mean cosine similarity of each frame to the first and to the one before."""
    if len(looks) < 2:
        return 1.0
    unit = looks / np.linalg.norm(looks, axis=1, keepdims=True)
    to_first, to_last = unit[1:] @ unit[0], np.sum(unit[1:] * unit[:-1], axis=1)
    return float(np.mean((to_first + to_last) / 2))


def stillness(clip: Floats, reading: Reading) -> float:
    """Return 1 less the mean change of ground that stays ground, over FLICKER_SCALE."""
    ground = ~grown(np.max(reading.weights, axis=0) > 0)
    still = ground[1:] & ground[:-1]
    change = np.abs(np.diff(clip, axis=0)).mean(-1)
    if not still.any():
        return 0.0
    return float(max(0.0, 1 - change[still].mean() / FLICKER_SCALE))


def smoothness(track: Track) -> float:
    """Return 1 less the mean distance of centres from the middle of their neighbours, scaled."""
    path = track.centre
    if len(path) < 3:
        return 1.0
    off = np.linalg.norm(path[1:-1] - (path[:-2] + path[2:]) / 2, axis=1)
    return float(max(0.0, 1 - off.mean() / JERK_SCALE))
