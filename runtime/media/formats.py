"""The formats a video can have; the suffix of its name chooses.

    .mp4    H.264, plays in a browser            settings in the container's comment
    .gif    256 colours, loops                   settings in the GIF comment
    .webp   lossless, loops                      settings in EXIF ImageDescription
    none    a folder of frame_0000.png ...       settings in a text chunk of every frame

To add one: a file beside this one with `write(path, clip)`, `read(path)` and `decode(path)`, and
its suffix below.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from hummingbird_edge.runtime.media import gif, mp4, png, webp
from hummingbird_edge.runtime.media.clip import Clip
from hummingbird_edge.runtime.media.decoded import Decoded

__all__ = ["DECODERS", "READERS", "WRITERS", "written_suffixes"]

WRITERS: Mapping[str, Callable[[Path, Clip], None]] = {
    ".mp4": mp4.write,
    ".gif": gif.write,
    ".webp": webp.write,
    "": png.write_folder,
}
"""Make a new file or folder; they raise OSError or ValueError, and RequestError for a clip that the
format cannot hold."""

READERS: Mapping[str, Callable[[Path], str | bytes | None]] = {
    ".mp4": mp4.read,
    ".gif": gif.read,
    ".webp": webp.read,
    ".png": png.read,
}
"""Return the text of the settings, None where there is none; they raise OSError, ValueError or
SyntaxError where the file is damaged."""


DECODERS: Mapping[str, Callable[[Path], Decoded]] = {
    ".mp4": mp4.decode,
    ".gif": gif.decode,
    ".webp": webp.decode,
    ".png": png.decode_folder,
}
"""Return the frames, of a PNG's all that are beside it; they raise as readers do."""


def written_suffixes() -> str:
    """Return the suffixes of files that can be written, as a sentence lists them."""
    *most, last = filter(None, WRITERS)
    return f"{', '.join(most)} or {last}"
