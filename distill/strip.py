"""A picture of several videos: a row each, frames from left to right."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = ["picture_prompts", "write_strips"]


def picture_prompts(path: Path, bundle: Path, prompts: Sequence[str], seed: int = 7) -> None:
    """Make a video of each prompt by a bundle and write their frames as one PNG."""
    pipeline = TextToVideo.from_bundle(bundle, device="cpu")
    write_strips(path, [pipeline(prompt, seed=seed).frames for prompt in prompts])


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
