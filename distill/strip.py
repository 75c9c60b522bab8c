"""A picture of several videos: a row each, frames from left to right."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_strips"]


def write_strips(
    path: Path, videos: Sequence[NDArray[np.uint8]], scale: int = 2, gap: int = 4
) -> None:
    """Write a PNG of videos (T, H, W, 3) uint8, enlarged `scale` times, `gap` pixels apart."""
    from PIL import Image

    rows = [np.concatenate([_framed(frame, gap) for frame in video], axis=1) for video in videos]
    sheet = np.concatenate(rows, axis=0)
    image = Image.fromarray(sheet)
    size = (image.width * scale, image.height * scale)
    image.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)


def _framed(frame: NDArray[np.uint8], gap: int) -> NDArray[np.uint8]:
    """Return `frame` with a gray border, so that black and white frames both end somewhere."""
    border = ((gap // 2, gap // 2), (gap // 2, gap // 2), (0, 0))
    return np.pad(frame, border, constant_values=128)
