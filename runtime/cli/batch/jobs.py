"""The file of jobs: JSON lines as batch APIs have them.

    {"custom_id": "a", "body": {"prompt": "a penguin waddling in the snow", "seed": 3}}

Lines of OpenAI's, with `method` and `url`, are taken too. As there, a file that is not of this form
is refused as a whole before any work begins; a body that asks for what cannot be made is a result
of its own, which says so.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import numbered_lines

__all__ = ["BatchJob", "read_jobs"]

_MAX_ID = 512
_MAX_LINE = 1 << 16
"""Bytes: thirty times the longest prompt."""
_FORM = 'write {"custom_id": ..., "body": {"prompt": ...}} a line'


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    custom_id: Annotated[str, Meta(min_length=1, max_length=_MAX_ID)]
    body: dict[str, Any]
    method: Literal["POST"] = "POST"
    url: Literal["/v1/videos"] = "/v1/videos"


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One line of the file."""

    custom_id: str
    """The user's name of it; not trusted as a name of a file."""
    body: dict[str, Any]
    line: int
    """Counted from 1."""


def read_jobs(path: Path) -> list[BatchJob]:
    """Return the jobs of a file; raises RequestError, which names the first line that is wrong."""
    found = dict[str, BatchJob]()
    for number, text in _lines(path):
        where = f"{path} line {number}"
        try:
            line = msgspec.json.decode(text, type=_Line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(f"{where} is no job ({error}): {_FORM}") from error
        job = BatchJob(line.custom_id, line.body, number)
        first = found.setdefault(job.custom_id, job)
        if first is not job:
            raise RequestError(
                f"{path} lines {first.line} and {number} have the same custom_id "
                f"{job.custom_id[:80]!r}: give each job its own"
            )
    if not found:
        raise RequestError(f"{path} holds no job: {_FORM}")
    return list(found.values())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number."""
    try:
        with path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # which some editors put first
                file.seek(0, os.SEEK_SET)
            yield from numbered_lines(file, _MAX_LINE)
    except ValueError as error:
        raise RequestError(f"{path} {error}: {_FORM}") from error
    except OSError as error:
        raise RequestError(f"the jobs in {path} cannot be read: {error}") from error
