"""Still and animated pictures through imageio, with Pillow under it."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.media.decoded import check_frame_size

__all__ = ["decode_pictures", "quiet", "read_metadata", "write_pictures"]


def write_pictures(path: Path, frames: NDArray[np.uint8], suffix: str, **options: Any) -> None:
    """Write (T, H, W, 3) as one picture with T frames; `options` are Pillow's for the format."""
    import imageio.v3 as iio

    # imageio takes some paths for archives or URLs, but never an open file.
    with path.open("wb") as file:
        iio.imwrite(file, frames, plugin="pillow", extension=suffix, is_batch=True, **options)


def read_metadata(path: Path, magic: bytes) -> dict[str, Any]:
    """Return what a GIF or WebP says of itself; no pixel is decoded.

    Raises ValueError where the file does not start with `magic`, a regular expression, and
    OSError, ValueError or SyntaxError where it is damaged.
    """
    import imageio.v3 as iio

    with path.open("rb") as file:
        # Without this check imageio would open any format that Pillow knows.
        if not re.match(magic, file.read(16), re.DOTALL):
            raise ValueError("the file is of another format than its suffix says")
        file.seek(0)
        with quiet(), iio.imopen(file, "r", plugin="pillow") as picture:
            return picture.metadata(index=0)


def decode_pictures(path: Path, kind: str) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    """Yield each frame (H, W, 3) of a picture, and the seconds that it is shown.

    `kind` is Pillow's name of the one format that is read. Raises OSError, or ValueError where the
    file is damaged or its frames are too large.
    """
    from PIL import Image

    try:
        with quiet(), path.open("rb") as file, Image.open(file, formats=[kind]) as image:
            for index in range(getattr(image, "n_frames", 1)):
                check_frame_size(*image.size)
                image.seek(index)
                check_frame_size(*image.size)  # a later frame can be larger
                frame = np.asarray(image.convert("RGB"))
                duration = image.info.get("duration")
                yield frame, duration / 1000 if isinstance(duration, int | float) else None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow meets damage with exceptions of many kinds
        raise ValueError(f"it is damaged, {type(error).__name__}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings of damage and huge sizes; its refusal of a bomb is a ValueError."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error
