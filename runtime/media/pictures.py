"""Still and animated pictures through imageio, with Pillow under it."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["quiet", "read_metadata", "write_pictures"]


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
