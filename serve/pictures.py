"""The files of a finished video, and the strip of frames that previews a step."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.files import atomic_path
from hummingbird_edge.runtime.result import Video

__all__ = ["write_files", "write_strip"]


def write_files(folder: Path, video: Video) -> None:
    """Write a video in every format, with a thumbnail and a sheet of all frames.

    Raises OutputError, or OSError where the disk is full.
    """
    for suffix in ("mp4", "gif", "webp"):
        video.save(folder / f"video.{suffix}")
    _write(folder / "thumbnail.webp", video.frames[len(video.frames) // 2])
    _write(folder / "spritesheet.jpg", _sheet(video.frames))


def write_strip(path: Path, frames: NDArray[np.uint8], height: int) -> None:
    """Write frames (T, H, W, 3) uint8 side by side as a PNG, at most `height` pixels high."""
    step = math.ceil(frames.shape[1] / height)
    small = frames[:, ::step, ::step]
    _write(path, np.concatenate(list(small), axis=1))


def _sheet(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frames (T, H, W, 3) in rows of about as many as there are rows."""
    count, height, width, channels = frames.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    cells = np.zeros((across * down, height, width, channels), np.uint8)
    cells[:count] = frames
    rows = cells.reshape(down, across, height, width, channels).transpose(0, 2, 1, 3, 4)
    return rows.reshape(down * height, across * width, channels)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    with atomic_path(path) as partial:
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial, quality=85)
