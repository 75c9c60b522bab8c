"""A folder of captioned videos, as it comes.

A caption is `NAME.txt` beside `NAME.mp4` (one a line), or an entry of `metadata.jsonl`,
`{"file_name": ..., "text": ...}`, as Hugging Face's `videofolder` has it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["SUFFIXES", "CaptionedVideo", "TooShortError", "find_videos", "read_frames"]

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp")
METADATA = "metadata.jsonl"


class TooShortError(ValueError):
    """Say that a video has fewer frames than are needed."""


@dataclass(frozen=True, slots=True)
class CaptionedVideo:
    """A file and what is said of it; no captions where there is none."""

    path: Path
    captions: tuple[str, ...]


def find_videos(folder: Path) -> list[CaptionedVideo]:
    """List the videos below `folder` by name; raises RequestError where there are none."""
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}: check the path")
    try:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        said = _metadata(folder / METADATA)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{folder} cannot be read ({error}): check its permissions") from error
    if not paths:
        raise RequestError(f"{folder} holds no videos: put some of {', '.join(SUFFIXES)} there")
    return [CaptionedVideo(path, _captions(path, folder, said)) for path in paths]


def _metadata(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    said: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"].strip()
            known = said.get(name, ())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f'{path} line {number} is not {{"file_name": ..., "text": ...}}: mend it'
            ) from error
        said[name] = (*known, *([text] if text else []))
    return said


def _captions(path: Path, folder: Path, said: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    name = path.relative_to(folder).as_posix()
    if name in said:
        return said[name]
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return ()
    lines = beside.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def read_frames(path: Path, count: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return `count` evenly spaced frames (T, H, W, 3), scaled to fill and cut to the middle.

    Raises ValueError where the file cannot be decoded, TooShortError where it has fewer frames.
    """
    # Scaled at once: a minute of full frames would not fit into memory.
    frames = [_fitted(frame, width, height) for frame in _decode(path)]
    if len(frames) < count:
        raise TooShortError(f"{len(frames)} frames, {count} are needed")
    return np.stack([frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)])


def _decode(path: Path) -> Iterator[NDArray[np.uint8]]:
    if path.suffix.lower() in (".gif", ".webp"):
        from PIL import Image, ImageSequence, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                for frame in ImageSequence.Iterator(image):
                    yield np.asarray(frame.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"not a picture that can be read ({error})") from error
        return
    import av

    try:
        with av.open(str(path)) as container:
            for picture in container.decode(video=0):
                yield np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"not a video that can be read ({error})") from error


def _fitted(frame: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height)))
