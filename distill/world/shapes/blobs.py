"""Find the objects in masks: connected parts of each frame, and the largest of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPECK", "Blobs", "Floats", "Mask", "find_blobs", "grown", "shrunk"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SPECK = 0.002  # of the frame; anything smaller is noise


@dataclass(frozen=True, slots=True)
class Blobs:
    weight: Floats  # (T, H, W) in [0, 1], the largest object alone
    area: Floats  # (T,) fraction of the frame
    count: int


def find_blobs(likeness: Floats) -> Blobs:
    """Keep the largest connected object of each frame; `likeness` is 0 on the ground, 1 on it."""
    labels, areas, owner = components(likeness > 0.5)
    pixels = likeness[0].size
    kept = np.zeros(likeness.shape, dtype=np.bool_)
    area, counts = np.zeros(len(likeness)), np.zeros(len(likeness))
    for t in range(len(likeness)):
        mine = np.flatnonzero(owner == t)
        if mine.size:
            largest = mine[np.argmax(areas[mine])]
            kept[t] = labels[t] == largest
            area[t] = areas[largest] / pixels
            noted = np.maximum(0.2 * areas[largest], SPECK * pixels)
            counts[t] = np.count_nonzero(areas[mine] > noted)
    # Steeper edges undo some blur; the grown mask lets the soft edge in, and no far speck.
    weight = np.where(grown(grown(kept)), np.clip(2 * likeness - 0.5, 0, 1), 0)
    return Blobs(weight, area, round(float(np.median(counts))))


def shrunk(mask: Mask) -> Mask:
    return ~grown(~mask)


def grown(mask: Mask) -> Mask:
    """Widen `mask` (T, H, W) by one pixel to every side."""
    wide = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    tall = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
    return tall[:, :, :-2] | tall[:, :, 1:-1] | tall[:, :, 2:]


def components(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Label the 4-connected parts of each frame.

    Returns labels (T, H, W), -1 outside, and the area and frame of each label.
    """
    height, width = mask.shape[1:]
    steps = np.diff(np.pad(mask.reshape(-1, width), ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    roots = join_runs(rows.tolist(), starts.tolist(), ends.tolist(), height)
    names, label = np.unique(np.array(roots, dtype=np.int64), return_inverse=True)
    lengths = ends - starts
    labels = np.full(mask.shape, -1, dtype=np.int64)
    labels[mask] = np.repeat(label, lengths)  # both go through the pixels row by row
    areas = np.bincount(label, weights=lengths, minlength=len(names)).astype(np.int64)
    return labels, areas, rows[names] // height


def join_runs(rows: list[int], starts: list[int], ends: list[int], height: int) -> list[int]:
    """Return for each run of pixels the first run that it is connected with."""
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0
    for run, row in enumerate(rows):
        if row % height == 0:
            continue
        while rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] <= starts[run]):
            above += 1
        other = above
        while rows[other] == row - 1 and starts[other] < ends[run]:
            low, high = sorted((root(other), root(run)))
            parent[high] = low
            other += 1
    return [root(run) for run in range(len(rows))]
