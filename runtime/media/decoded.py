"""Frames of a file from anywhere, within bounds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_BYTES", "MAX_FPS", "MAX_FRAME_PIXELS", "Decoded", "check_frame_size"]

MAX_BYTES = 4 << 30
"""Of all frames of a video together, decoded."""
MAX_FRAME_PIXELS = 1 << 26
"""8K video has half as many."""
MAX_FPS = 240
"""Beyond it no player follows."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The pixels of a video."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3) uint8 RGB, T >= 1."""
    seconds: float | None
    """How long it lasts; None where the file does not say."""

    @classmethod
    def of(
        cls, frames: Iterable[tuple[NDArray[np.uint8], float | None]], seconds: float | None = None
    ) -> "Decoded":
        """Gather frames (H, W, 3), each with the seconds that it is shown, or `seconds` for all.

        Raises ValueError where there are none, too many, or of several sizes.
        """
        kept, shown, size = list[NDArray[np.uint8]](), 0.0, 0
        for frame, duration in frames:
            size += frame.nbytes
            if size > MAX_BYTES:
                raise ValueError(f"its frames take more than {MAX_BYTES >> 30} GiB")
            if kept and frame.shape != kept[0].shape:
                raise ValueError("its frames have several sizes")
            kept.append(frame)
            shown += duration or 0.0
        if not kept:
            raise ValueError("it has no frames")
        return cls(np.stack(kept), seconds or shown or None)

    def fps(self, recorded: object) -> int:
        """Return the frames a second: what was recorded, where the duration does not contradict it.

        The others are rounded to a whole number, at least 1; 1 where nothing is known.
        """
        count = len(self.frames)
        known = recorded if type(recorded) is int and 1 <= recorded <= MAX_FPS else None
        if self.seconds is None:
            return known or 1
        # Formats round durations to hundredths of a second.
        if known and abs(count / known - self.seconds) <= 0.01:
            return known
        return max(1, min(round(count / self.seconds), MAX_FPS))


def check_frame_size(width: int, height: int) -> None:
    """Raise ValueError where a frame is too large to be decoded."""
    if width * height > MAX_FRAME_PIXELS:
        raise ValueError(f"its frames have {width}x{height} pixels, {MAX_FRAME_PIXELS} are allowed")
