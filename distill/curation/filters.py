"""Measure whether a clip is worth training on: sharp, moving smoothly, without a camera trick.

Hummingbird (arXiv:2503.18559, section on data) keeps clips by a learnt video quality score and by
motion. Here both are measured without a network: quality by how much a picture changes when it is
blurred (Crete et al. 2007, as scikit-image implements it) and by its contrast, motion by dense
optical flow (Kroeger et al. 2016, DIS, as OpenCV implements it).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.curation.candidate import SIDE, Candidate

__all__ = ["COPY", "FAULTS", "Thresholds", "measure_motion", "measure_quality"]

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]

COPY = "copy of another"
FAULTS = (
    "no caption",
    "unreadable",
    "too short",
    "low quality",
    "static",
    "motion not smooth",
    "dolly zoom",
    COPY,
)
"""Why clips are dropped, in the order in which it is looked at."""

LOOKED_AT = 5
"""Frames of which the quality is measured."""
CONTRAST = 0.02
"""Standard deviation of a colour, in units of full brightness, that is enough of it."""
FLOW_SIDE = 96
"""Pixels of the square that motion is measured on."""
SLOW = 0.02
"""Of the frame's side; changes of motion are divided by this or more."""
CHANGE_SIDE = 24
"""Pixels of the picture whose change is measured: noise averages out."""
CHANGING = 98
"""The percentile of its pixels that counts: small things move, too."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits that a clip must keep to be used.

    Calibrated on clips with planted faults, by other seeds than those of the published table
    (benchmarks/curation.py).
    """

    quality: float = 0.35
    smoothness: float = 0.5
    change: float = 0.08
    """Lowest change of the picture over a clip."""
    dolly: float = 0.12
    """Highest growth of the border beyond the middle over a clip."""
    copy: int = 12
    """Bits of the fingerprint by which two clips must differ."""

    def fault(self, clip: Candidate) -> str:
        """Return why a clip is dropped, whatever others there are, or nothing."""
        checks = (
            not clip.captions,
            clip.fault == "unreadable",
            clip.fault == "too short",
            clip.quality < self.quality,
            clip.change < self.change,
            clip.smoothness < self.smoothness,
            clip.dolly > self.dolly,
        )
        return next((FAULTS[number] for number, is_so in enumerate(checks) if is_so), "")


def measure_quality(clip: Candidate) -> Iterator[Candidate]:
    """Yield the clip with its quality, sharpness times contrast in [0, 1]."""
    if clip.fault:
        yield clip
        return
    frames = clip.pixels
    side = min(each for each in (SIDE, clip.width, clip.height) if each)
    chosen = np.linspace(0, len(frames) - 1, LOOKED_AT).round().astype(int)
    qualities = [_quality(frames[index], side) for index in chosen]
    yield clip.but(quality=float(np.median(qualities)))


def _quality(picture: Frames, side: int) -> float:
    """Measure a picture at `side` pixels: enlarged to more it would look blurred."""
    import cv2
    from skimage.measure import blur_effect

    colours = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) / 255
    # The one in which there is most to see: orange on gray differs in no mean of all three.
    plane = colours[..., colours.std((0, 1)).argmax()]
    contrast = min(float(plane.std()) / CONTRAST, 1.0)
    with np.errstate(invalid="ignore"):
        quality = contrast * (1 - float(blur_effect(plane))) if contrast else 0.0
    return quality if math.isfinite(quality) else 0.0  # too few pixels to tell


def measure_motion(clip: Candidate) -> Iterator[Candidate]:
    """Yield the clip with what moves in it and how.

    change        how much the picture changes where it changes most, in units of full brightness
    smoothness    1 less how much the flow changes from frame to frame, in [0, 1]
    zoom          growth of the border of the picture over the clip; a still camera has 0
    dolly         how much less the middle grows than the border: a dolly zoom keeps its
                  subject's size
    """
    if clip.fault:
        yield clip
        return
    flows = _flows(clip.pixels)
    border, middle = (abs(_growth(flows, mask)) for mask in _masks())
    yield clip.but(
        change=_change(clip.pixels),
        smoothness=_smoothness(flows),
        zoom=border,
        dolly=border - middle,
    )


def _flows(frames: Frames) -> Floats:
    """Return the flow from each frame to the next, (T - 1, S, S, 2) float32 in frame sides."""
    import cv2

    size = (FLOW_SIDE, FLOW_SIDE)
    gray = [
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    with _one_thread():
        flows = [search.calc(a, b, None) for a, b in pairwise(gray)]  # type: ignore[call-overload]
    return np.asarray(np.stack(flows) / FLOW_SIDE, np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let OpenCV use one thread: the flow depends on how many there are."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _change(frames: Frames) -> float:
    """Return the range of small pictures over time; a lamp that flickers changes nothing."""
    import cv2

    size = (CHANGE_SIDE, CHANGE_SIDE)
    small = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames]) / 255.0
    levels = np.maximum(small.mean((1, 2, 3), keepdims=True), 1e-3)
    change = np.ptp(small / levels, axis=0).max(-1) * levels.mean()
    return float(np.percentile(change, CHANGING))


def _smoothness(flows: Floats) -> float:
    """Compare the mean motion of each frame with the next one's, and take the median.

    A bouncing ball turns back now and then and passes; a shaking hand always does and fails.
    """
    moves = np.hypot(*flows.T).T > 0.3 / FLOW_SIDE
    counts = np.maximum(moves.sum((1, 2)), 1)[:, None]
    motions = (flows * moves[..., None]).sum((1, 2), dtype=np.float64) / counts
    changes = np.linalg.norm(np.diff(motions, axis=0), axis=1)
    speeds = np.linalg.norm(motions, axis=1)
    reach = np.maximum(speeds[1:] + speeds[:-1], SLOW)  # no change is larger than both together
    return float(1 - np.median(np.minimum(changes / reach, 1)))


def _masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the outer sixth of the picture, and its middle third."""
    y, x = np.mgrid[:FLOW_SIDE, :FLOW_SIDE]
    half = FLOW_SIDE / 2
    reach = np.maximum(np.abs(x - half), np.abs(y - half)) / half
    return reach > 2 / 3, reach < 1 / 3


def _growth(flows: Floats, mask: NDArray[np.bool_]) -> float:
    """Return the sum of the flows' least-squares expansions about the centre.

    flow = growth * offset + a shift
    """
    y, x = (np.mgrid[:FLOW_SIDE, :FLOW_SIDE] + 0.5) / FLOW_SIDE - 0.5
    offset = np.stack([x, y], -1)[mask]
    moved = flows[:, mask].sum(0, dtype=np.float64)
    return float(((moved - moved.mean(0)) * offset).sum() / np.square(offset).sum())
