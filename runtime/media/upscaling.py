"""Other sizes of frames: Lanczos, after a super-resolution model where there is one.

Nothing is stretched: where the shape differs, the middle is shown and the rest is cut off.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Upscaler", "middle", "upscale"]

Box = tuple[float, float, float, float]


class Upscaler(Protocol):
    """A super-resolution model."""

    name: str
    """Of its file."""
    sha256: str
    """Of its file."""
    device: str
    """Where it runs, by the name that a user types."""

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a frame (H, W, 3) uint8 as (sH, sW, 3), s >= 1."""
        ...


def upscale(
    frames: NDArray[np.uint8], width: int, height: int, upscaler: Upscaler | None = None
) -> NDArray[np.uint8]:
    """Return frames (T, H, W, 3) uint8 as (T, height, width, 3).

    Lanczos (Pillow's, three lobes) makes the size exact, also where an upscaler went before.
    """
    from PIL import Image

    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        large = frame if upscaler is None else upscaler(frame)
        box = middle(large.shape[1], large.shape[0], width, height)
        image = Image.fromarray(large)
        resized[index] = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box))
    return resized


def middle(width: int, height: int, new_width: int, new_height: int) -> Box:
    """Return the largest part of a frame, at its middle, in the shape of the new size.

    In pixels: left, top, right, bottom.
    """
    shown_width = min(width, height * new_width / new_height)
    shown_height = min(height, width * new_height / new_width)
    left, top = (width - shown_width) / 2, (height - shown_height) / 2
    return left, top, left + shown_width, top + shown_height
