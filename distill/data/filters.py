"""Judge whether a video is worth training on: sharpness, smooth motion, no camera zoom, no copies.

Hummingbird (arXiv:2503.18559, section on data) keeps clips by a learnt video quality score and by
motion. Here both are measured without a network: quality by sharpness and contrast, motion by
dense optical flow (Farneback 2003, as OpenCV implements it).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Measures", "fingerprint", "measure_video"]

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]

SIDE = 96  # pixels of the square that motion is measured on
SHARP = 0.02  # mean Laplacian, in units of full brightness, of a picture that counts as sharp
CONTRASTY = 0.15  # standard deviation of the brightness of one with full contrast
SLOW = 0.02  # of the frame's side; changes of motion are divided by this or more


@dataclass(frozen=True, slots=True)
class Measures:
    """The measurements that filters compare with thresholds."""

    quality: float
    """Sharpness times contrast, in [0, 1]."""
    smoothness: float
    """1 less how much the flow changes from frame to frame, in [0, 1]."""
    zoom: float
    """Growth of the border of the picture over the clip, as a fraction; a still camera has 0."""
    dolly: float
    """How much less the middle grows than the border: a dolly zoom keeps its subject's size."""


def measure_video(frames: Frames) -> Measures:
    """Measure `frames` (T, H, W, 3) uint8; T is 3 or more."""
    import cv2

    gray = [
        cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for f in frames
    ]
    flows = [
        cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0).astype(np.float64) / SIDE  # type: ignore[call-overload]
        for a, b in pairwise(gray)
    ]
    border, middle = (sum(_growth(flow, mask) for flow in flows) for mask in _masks())
    return Measures(_quality(gray), _smoothness(flows), abs(border), abs(border) - abs(middle))


def _quality(gray: list[NDArray[np.uint8]]) -> float:
    import cv2

    pictures = [picture.astype(np.float32) / 255 for picture in gray]
    sharp = np.mean([np.abs(cv2.Laplacian(p, cv2.CV_32F)).mean() for p in pictures]) / SHARP
    contrast = np.mean([p.std() for p in pictures]) / CONTRASTY
    return float(np.sqrt(min(sharp, 1.0) * min(contrast, 1.0)))


def _smoothness(flows: list[Floats]) -> float:
    """Compare the mean motion of each frame with the next one's, and take the median.

    A bouncing ball turns back now and then and passes; a shaking hand always does and fails.
    """
    motions = []
    for flow in flows:
        moves = np.linalg.norm(flow, axis=-1) > 0.3 / SIDE
        motions.append(flow[moves].mean(0) if moves.any() else np.zeros(2))
    changes = np.linalg.norm(np.diff(motions, axis=0), axis=1)
    speeds = np.linalg.norm(motions, axis=1)
    reach = np.maximum(speeds[1:] + speeds[:-1], SLOW)  # no change is larger than both together
    return float(1 - np.median(np.minimum(changes / reach, 1)))


def _masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the outer sixth of the picture, and its middle third."""
    y, x = np.mgrid[:SIDE, :SIDE]
    reach = np.maximum(np.abs(x - SIDE / 2), np.abs(y - SIDE / 2)) / (SIDE / 2)
    return reach > 2 / 3, reach < 1 / 3


def _growth(flow: Floats, mask: NDArray[np.bool_]) -> float:
    """Return the least-squares expansion about the centre: flow = growth * offset + a shift."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5
    offset = np.stack([x, y], -1)[mask]
    moved = flow[mask] - flow[mask].mean(0)
    return float((moved * offset).sum() / np.square(offset).sum())


def fingerprint(frames: Frames) -> NDArray[np.bool_]:
    """Return bits that near copies share, (3, 8, 8, 3): gradients of colour in three frames."""
    import cv2

    bits = []
    for index in (0, len(frames) // 2, len(frames) - 1):
        small = cv2.resize(frames[index], (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
        bits.append(small[:, 1:] - small[:, :-1] > 2)
    return np.stack(bits)
