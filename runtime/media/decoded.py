"""Frames of a file from anywhere, within bounds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_BYTES", "MAX_FPS", "MAX_FRAMES", "MAX_FRAME_PIXELS", "Decoded", "check_frame_size"]

MAX_BYTES = 4 << 30
"""Of all frames of a video together, decoded."""
MAX_FRAME_PIXELS = 1 << 26
"""8K video has half as many."""
MAX_FRAMES = 100_000
"""Over an hour at 24 a second."""
MAX_FPS = 240
"""Beyond it no player follows."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The pixels of a video."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3) uint8 RGB, T >= 1."""
    ends: NDArray[np.float64] | None
    """(T,) seconds at which each frame's time is over; None where the file does not say."""

    @classmethod
    def of(cls, frames: Iterable[tuple[NDArray[np.uint8], float | None]]) -> "Decoded":
        """Gather frames (H, W, 3), each with the seconds that it is shown.

        Raises ValueError where there are none, too many, or of several sizes.
        """
        kept, shown, size = list[NDArray[np.uint8]](), list[float](), 0
        for frame, duration in frames:
            size += frame.nbytes
            _check_extent(len(kept) + 1, size)
            if kept and frame.shape != kept[0].shape:
                raise ValueError("its frames have several sizes")
            kept.append(frame)
            shown.append(duration or 0.0)
        if not kept:
            raise ValueError("it has no frames")
        return cls(np.stack(kept), np.cumsum(shown) if min(shown) > 0 else None)

    def fps(self, recorded: object) -> int:
        """Return the frames a second: what was recorded, where no frame's time contradicts it.

        Others are rounded to a whole number, at least 1; it is 1 where nothing is known.
        """
        known = recorded if type(recorded) is int and 1 <= recorded <= MAX_FPS else None
        if self.ends is None:
            return known or 1
        if known is not None:
            # A GIF has hundredths of a second.
            edges = np.rint(self.ends * known) / known
            if edges[0] > 0 and np.abs(edges - self.ends).max() <= 0.01:
                return known
        return max(1, min(round(len(self.frames) / float(self.ends[-1])), MAX_FPS))

    def at(self, fps: int) -> NDArray[np.uint8]:
        """Return a frame for each 1 / fps seconds; raises ValueError for too many.

        Formats keep frames that are equal as one that is shown longer.
        """
        if self.ends is None:
            return self.frames
        count = max(1, round(float(self.ends[-1]) * fps))
        _check_extent(count, count * self.frames[0].nbytes)
        middles = (np.arange(count) + 0.5) / fps
        shown = np.searchsorted(self.ends, middles).clip(max=len(self.frames) - 1)
        if np.array_equal(shown, np.arange(len(self.frames))):
            return self.frames
        spread: NDArray[np.uint8] = self.frames[shown]
        return spread


def check_frame_size(width: int, height: int) -> None:
    """Raise ValueError where a frame is too large to be decoded."""
    if width * height > MAX_FRAME_PIXELS:
        raise ValueError(f"its frames have {width}x{height} pixels, {MAX_FRAME_PIXELS} are allowed")


def _check_extent(count: int, size: int) -> None:
    if count > MAX_FRAMES:
        raise ValueError(f"it has more than {MAX_FRAMES} frames")
    if size > MAX_BYTES:
        raise ValueError(f"its frames take more than {MAX_BYTES >> 30} GiB")
