"""Temporal flickering: how little neighbouring frames differ, equal to the official score.

The mean absolute difference of neighbouring frames over all pixels and channels (0 to 255),
averaged over the clip, as a share of full brightness, subtracted from 1. OpenCV decodes the frames,
as in the official code, so that both see the same pixels, whoever made the file.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import OutputError

__all__ = ["flicker_of", "mean_flicker"]


def mean_flicker(paths: Sequence[Path]) -> float:
    """Return the mean score of videos, in [0, 1]; raises OutputError for one that has none."""
    return float(np.mean([flicker_of(path) for path in paths]))


def flicker_of(path: Path) -> float:
    """Return the score of one video; raises OutputError unless it has two frames and more."""
    changes, before = list[float](), None
    for frame in _frames(path):
        if before is not None:
            changes.append(_change(before, frame))
        before = frame
    if not changes:
        found = "cannot be read" if before is None else "has one frame"
        raise OutputError(f"{path} {found}, and flicker needs two: make it again")
    return 1.0 - float(np.mean(changes)) / 255.0


def _change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two frames (H, W, 3)."""
    import cv2

    return float(cv2.absdiff(before, after).mean())


def _frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield each frame (H, W, 3), BGR."""
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        while True:
            found, frame = video.read()
            if not found:
                return
            yield np.asarray(frame, np.uint8)
    finally:
        video.release()
