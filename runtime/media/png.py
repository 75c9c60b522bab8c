"""A folder of PNG frames; settings in a text chunk of every frame."""

import re
from pathlib import Path

from hummingbird_edge.runtime.media.clip import Clip
from hummingbird_edge.runtime.media.decoded import Decoded
from hummingbird_edge.runtime.media.pictures import decode_pictures, quiet, write_pictures

__all__ = ["decode_folder", "first_frame", "is_frame", "read", "write_folder"]

KEYWORD = "hummingbird-edge"


def first_frame(folder: Path) -> Path:
    """Return where a folder has its first frame."""
    return folder / _name(0)


def is_frame(name: str) -> bool:
    """Tell whether a frame could have this file name."""
    return re.fullmatch(r"frame_\d{4,}\.png", name) is not None


def write_folder(path: Path, clip: Clip) -> None:
    """Make a folder of frames."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEYWORD, clip.text)
    path.mkdir()
    for index, frame in enumerate(clip.frames):
        write_pictures(path / _name(index), frame[None], ".png", pnginfo=info)


def read(path: Path) -> str | None:
    """Return the text of one frame; no pixel is decoded."""
    # Not imageio: it decodes a whole PNG to look for metadata behind the pixels.
    from PIL import Image

    with quiet(), Image.open(path, formats=["PNG"]) as image:
        text = image.info.get(KEYWORD)
    return text if isinstance(text, str) else None


def decode_folder(first: Path) -> Decoded:
    """Return the frames of the folder whose first one is at `first`."""
    paths = sorted(
        (path for path in first.parent.iterdir() if is_frame(path.name)),
        key=lambda path: int(path.stem.removeprefix("frame_")),
    )
    if [path.name for path in paths] != [_name(index) for index in range(len(paths))]:
        raise ValueError("the numbers of its frames have gaps")
    return Decoded.of(frame for path in paths for frame in decode_pictures(path, "PNG"))


def _name(index: int) -> str:
    return f"frame_{index:04d}.png"
