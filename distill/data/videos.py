"""A folder of captioned videos from anywhere.

A caption is `NAME.txt` next to `NAME.mp4` (one a line), or an entry of `metadata.jsonl`,
`{"file_name": ..., "text": ...}`, the format of Hugging Face's `videofolder`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.distill.data.frames import SUFFIXES
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["CaptionedVideo", "find_videos"]

METADATA = "metadata.jsonl"


@dataclass(frozen=True, slots=True)
class CaptionedVideo:
    """A video file and its captions, none or more."""

    path: Path
    captions: tuple[str, ...]


def find_videos(folder: Path) -> list[CaptionedVideo]:
    """List the videos in `folder` and below it by name; raises RequestError without any."""
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}: check the path")
    try:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        texts = _metadata(folder / METADATA)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{folder} cannot be read ({error}): check its permissions") from error
    if not paths:
        raise RequestError(f"{folder} holds no videos: put some of {', '.join(SUFFIXES)} there")
    return [CaptionedVideo(path, _captions(path, folder, texts)) for path in paths]


def _metadata(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    texts: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"].strip()
            known = texts.get(name, ())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f'{path} line {number} is not {{"file_name": ..., "text": ...}}: correct it'
            ) from error
        texts[name] = (*known, *([text] if text else []))
    return texts


def _captions(path: Path, folder: Path, texts: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    name = path.relative_to(folder).as_posix()
    if name in texts:
        return texts[name]
    file = path.with_suffix(".txt")
    if not file.is_file():
        return ()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
