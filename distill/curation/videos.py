"""A folder of captioned videos from anywhere.

A caption is `NAME.txt` next to `NAME.mp4` (one a line), or an entry of `metadata.jsonl`,
`{"file_name": ..., "text": ...}`, the format of Hugging Face's `videofolder`.
"""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.distill.data.frames import SUFFIXES
from hummingbird_edge.distill.data.storage import Folder, open_file
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import numbered_lines

__all__ = ["find_videos", "read_captions"]

METADATA = "metadata.jsonl"
MAX_TEXT = 1 << 16
"""Bytes of a `NAME.txt`, and of a line of `metadata.jsonl`."""
MAX_CAPTIONS = 64
"""Of a video; the first ones are used."""


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
    except OSError as error:
        raise RequestError(f"{folder} cannot be read ({error}): check its permissions") from error
    videos = [name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if not videos:
        raise RequestError(f"{folder} holds no videos: put some of {', '.join(SUFFIXES)} there")
    for name in videos:
        _check_name(folder.location(name))
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


def _check_name(name: str) -> None:
    """Raise RequestError where a name is not UTF-8, as tables and JSON are."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"the name of {name!r} is not UTF-8: rename it") from error


def _metadata(folder: Folder) -> dict[str, tuple[str, ...]]:
    texts: dict[str, tuple[str, ...]] = {}
    for number, line in _lines(folder):
        try:
            entry = json.loads(line.decode("utf-8"))
            name, text = entry["file_name"], entry["text"].strip()
            known = texts.get(name, ())
            text.encode()  # half of a pair of surrogates is no text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RequestError(
                f'{folder.location(METADATA)} line {number} is not {{"file_name": ..., "text": '
                f"...}} ({error}): correct it"
            ) from error
        texts[name] = (*known, *([text] if text else []))[:MAX_CAPTIONS]
    return texts


def _lines(folder: Folder) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number; raises RequestError for a long one."""
    with open_file(folder.location(METADATA)) as opened:
        file = io.BufferedReader(cast(io.RawIOBase, opened))  # fsspec's own reads whole lines
        try:
            yield from numbered_lines(file, MAX_TEXT)
        except ValueError as error:
            raise RequestError(f"{folder.location(METADATA)} {error}: shorten it") from error


def read_captions(file: BinaryIO) -> tuple[str, ...]:
    """Return the captions of a `NAME.txt`, one a line; raises ValueError where it is too long."""
    content = file.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise ValueError(f"its captions have more than {MAX_TEXT} bytes")
    lines = content.decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())[:MAX_CAPTIONS]
