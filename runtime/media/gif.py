"""GIF: 256 colours for the whole clip, in an endless loop; settings in the comment."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.media.clip import Clip
from hummingbird_edge.runtime.media.decoded import Decoded
from hummingbird_edge.runtime.media.pictures import (
    decode_pictures,
    read_metadata,
    write_pictures,
)

__all__ = ["decode", "read", "write"]

MAGIC = rb"GIF8[79]a"


def write(path: Path, clip: Clip) -> None:
    """Write `clip` as an animation."""
    frames, palette = _with_one_palette(clip.frames)
    durations, comment = clip.durations(10), clip.text.encode()
    options = {"palette": palette, "duration": durations, "loop": 0, "comment": comment}
    write_pictures(path, frames, ".gif", save_all=True, **options)


def read(path: Path) -> bytes | None:
    """Return the comment."""
    comment = read_metadata(path, MAGIC).get("comment")
    return comment if isinstance(comment, bytes) else None


def decode(path: Path) -> Decoded:
    """Return the frames."""
    return Decoded.of(decode_pictures(path, "GIF"))


def _with_one_palette(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bytes]:
    """Reduce (T, H, W, 3) to 256 colours in all; return the frames and the palette, RGBRGB ..."""
    # Palettes made frame by frame, as imageio's own are, flicker.
    from PIL import Image

    every = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    palette = every.quantize(256, method=Image.Quantize.MEDIANCUT)
    reduced = [Image.fromarray(frame).quantize(palette=palette) for frame in frames]
    colours = bytes(palette.getpalette() or ())
    return np.stack([np.asarray(image.convert("RGB")) for image in reduced]), colours
