"""The folder of a batch.

    DIR/results.jsonl       a line a job that has ended, in the order of their ends
    DIR/videos/NAME.mp4     the videos
    DIR/running.sqlite      locked by the command that works on it

A line is written when its video is whole on the disk, so a kill at any moment leaves a folder with
which the same command goes on: a job with a line and the file that the line describes is finished.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
from msgspec import Struct

from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.files import atomic_path, lock, sha256_of
from hummingbird_edge.runtime.request import Request

__all__ = [
    "Failure",
    "Result",
    "Results",
    "digest_of",
    "file_name",
    "finished_videos",
    "open_results",
]

_VIDEOS, _RESULTS, _LOCK = "videos", "results.jsonl", "running.sqlite"
_PLAIN = re.compile(
    r"(?!(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$))(?!.*-[0-9a-f]{16}$)[a-z0-9][a-z0-9._-]{0,99}"
)
"""An id that is a name on every file system: lower case, none of Windows' devices, no digest."""


class Failure(Struct, frozen=True):
    """Why there is no video."""

    code: str
    message: str


class Result(Struct, frozen=True):
    """What came of a job: a line of `results.jsonl`."""

    custom_id: str
    status: Literal["completed", "failed"]
    path: str | None = None
    """Of the video, below the folder."""
    sha256: str | None = None
    """Of that file."""
    request_sha256: str | None = None
    """Of the request and the model; None where the body was none."""
    timings: dict[str, Any] | None = None
    error: Failure | None = None


def file_name(custom_id: str) -> str:
    """Return the name of a job's video: no two ids have one, whatever the file system's letters.

    It is the id itself where that is plain; else what is plain of it, and a digest.
    """
    if _PLAIN.fullmatch(custom_id):
        return f"{custom_id}.mp4"
    digest = hashlib.sha256(json.dumps(custom_id).encode()).hexdigest()[:16]
    stem = re.sub(r"[^a-z0-9_-]+", "_", custom_id.lower())[:60].strip("_-")
    return f"{stem or 'video'}-{digest}.mp4"


def digest_of(request: Request, bundle_digest: str) -> str:
    """Return what tells a request of a model from all others."""
    entries = {**request.settings(), "bundle_sha256": bundle_digest}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class Results:
    """A folder that is open; `open_results` makes it."""

    folder: Path
    finished: dict[str, Result]
    """By custom_id, those of earlier commands."""
    _file: IO[bytes]

    @property
    def file(self) -> Path:
        """The file of lines."""
        return self.folder / _RESULTS

    def path(self, custom_id: str) -> Path:
        """Return where the video of a job lies."""
        return self.folder / _VIDEOS / file_name(custom_id)

    def add(self, result: Result) -> None:
        """Write a line that stays, whatever happens next; raises OutputError."""
        try:
            self._file.write(_line(result))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.file} cannot be written ({error.strerror or error}): free some space and "
                f"run the same command again"
            ) from error


@contextmanager
def open_results(folder: Path, wanted: Mapping[str, str | None]) -> Iterator[Results]:
    """Open a folder for jobs, by custom_id the digests of their requests.

    Of these, lines stay that have their video; a job that failed is to be tried again. Raises
    RequestError where one was made by another request, and OutputError.
    """
    folder = folder.absolute()
    try:
        (folder / _VIDEOS).mkdir(parents=True, exist_ok=True)
        held = lock(folder / _LOCK)
    except OSError as error:
        raise OutputError(
            f"the folder {folder} cannot be used ({error.strerror or error}): choose another with "
            f"--output-dir"
        ) from error
    if held is None:
        raise OutputError(f"another command works on {folder}: wait for it, or choose another")
    try:
        kept = _kept(folder, wanted)
        with atomic_path(folder / _RESULTS) as partial:
            _write(partial, b"".join(map(_line, kept.values())))
        with (folder / _RESULTS).open("ab") as file:
            yield Results(folder, {name: kept[name] for name in wanted if name in kept}, file)
    finally:
        held.close()


def finished_videos(folder: Path, wanted: Mapping[str, str]) -> dict[str, Path]:
    """Return the videos of a folder that are those of `wanted`, by custom_id digests of requests.

    Raises OutputError where its results cannot be read.
    """
    return {
        result.custom_id: folder / _VIDEOS / file_name(result.custom_id)
        for result in _read(folder / _RESULTS)
        if result.custom_id in wanted
        and result.request_sha256 == wanted[result.custom_id]
        and _is_file(folder / _VIDEOS / file_name(result.custom_id), result.sha256)
    }


def _kept(folder: Path, wanted: Mapping[str, str | None]) -> dict[str, Result]:
    """Return the lines that stay, by custom_id; raises RequestError for another request's."""
    kept, other = dict[str, Result](), set[str]()
    for result in _read(folder / _RESULTS):
        name, digest = result.custom_id, wanted.get(result.custom_id)
        if name in wanted:
            video = folder / _VIDEOS / file_name(name)
            if result.status == "failed" or not _is_file(video, result.sha256):
                continue
            if result.request_sha256 != digest:
                other.add(name)
        kept[name] = result
    # In the order of the jobs: that of the lines is by chance.
    first = next((name for name in wanted if name in other), None)
    if first is not None:
        raise RequestError(
            f"{folder} has a video {first[:80]!r} with other settings or of another model: "
            f"give the job another custom_id, or choose another --output-dir"
        )
    return kept


def _read(path: Path) -> Iterator[Result]:
    """Yield each line; the last one may be torn. Raises OutputError for others."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error}): choose another folder") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield msgspec.json.decode(line, type=Result)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if number < len(lines):
                raise OutputError(
                    f"{path} line {number} is no result ({error}): remove that line, or choose "
                    f"another --output-dir"
                ) from error


def _is_file(path: Path, digest: str | None) -> bool:
    try:
        return sha256_of(path) == digest
    except OSError:
        return False


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def _line(result: Result) -> bytes:
    return msgspec.json.encode(result) + b"\n"
