"""A folder of captioned videos from anywhere.

A caption is `NAME.txt` next to `NAME.mp4` (one a line), or an entry of `metadata.jsonl`,
`{"file_name": ..., "text": ...}`, the format of Hugging Face's `videofolder`.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.distill.data.frames import SUFFIXES
from hummingbird_edge.distill.data.storage import Folder
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["find_videos", "read_captions"]

METADATA = "metadata.jsonl"


def find_videos(folder: Folder) -> list[Candidate]:
    """List the videos in `folder` and below it by name; raises RequestError without any.

    Captions of `metadata.jsonl` are read, of the others it is said where they are: of a million
    files whoever reads the video reads its caption too.
    """
    try:
        files = folder.find()
        texts = _metadata(folder) if METADATA in files else {}
    except FileNotFoundError as error:
        raise RequestError(f"{error}: check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{folder} cannot be read ({error}): check its permissions") from error
    videos = [name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if not videos:
        raise RequestError(f"{folder} holds no videos: put some of {', '.join(SUFFIXES)} there")
    return [_candidate(name, folder, files, texts) for name in videos]


def _candidate(
    name: str, folder: Folder, files: Mapping[str, str], texts: Mapping[str, tuple[str, ...]]
) -> Candidate:
    video = Candidate(name, folder.location(name), files[name], texts.get(name, ()))
    beside = str(PurePosixPath(name).with_suffix(".txt"))
    if name in texts or beside not in files:
        return video.but(version=f"{video.version} {json.dumps(video.captions)}")
    return video.but(
        version=f"{video.version} {files[beside]}", caption_file=folder.location(beside)
    )


def _metadata(folder: Folder) -> dict[str, tuple[str, ...]]:
    texts: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(folder.read(METADATA).decode("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"].strip()
            known = texts.get(name, ())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f'{folder.location(METADATA)} line {number} is not {{"file_name": ..., "text": '
                f"...}}: correct it"
            ) from error
        texts[name] = (*known, *([text] if text else []))
    return texts


def read_captions(content: bytes) -> tuple[str, ...]:
    """Return the captions of a `NAME.txt`, one a line."""
    lines = content.decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
