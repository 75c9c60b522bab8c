"""WebP: lossless, in an endless loop; settings in EXIF's ImageDescription."""

from pathlib import Path

from hummingbird_edge.runtime.media.clip import Clip
from hummingbird_edge.runtime.media.decoded import Decoded
from hummingbird_edge.runtime.media.pictures import (
    decode_pictures,
    read_metadata,
    write_pictures,
)

__all__ = ["decode", "read", "write"]

MAGIC = rb"RIFF....WEBP"
IMAGE_DESCRIPTION = 0x010E


def write(path: Path, clip: Clip) -> None:
    """Write `clip` as an animation; a clip of one frame becomes a still."""
    from PIL import Image

    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = clip.text
    options = {"duration": clip.durations(1), "loop": 0, "lossless": True, "exif": exif}
    write_pictures(path, clip.frames, ".webp", save_all=True, **options)


def read(path: Path) -> str | None:
    """Return the description."""
    text = read_metadata(path, MAGIC).get("ImageDescription")
    return text if isinstance(text, str) else None


def decode(path: Path) -> Decoded:
    """Return the frames."""
    return Decoded.of(decode_pictures(path, "WEBP"))
