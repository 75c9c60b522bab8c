"""Latents as a file: where a video stands while it is made, or to decode it again.

    {"format": "hummingbird-edge latents", "version": 1, "taken": 2, "shape": [...], ...}\\n
    float32 numbers, little-endian

The first line is JSON, with the settings that make the video again; what follows are the latents,
whose digest it holds. Nothing in such a file is executed, and it is read in its own size.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.files import atomic_path

__all__ = ["LatentsFile", "read_latents", "write_latents"]

_FORMAT, _VERSION = "hummingbird-edge latents", 1
_MAX_HEADER = 1 << 20
_RANK = 5


@dataclass(frozen=True, slots=True, eq=False)
class LatentsFile:
    """What such a file holds."""

    settings: Mapping[str, object]
    """Of the request, with `model` and `bundle_sha256`."""
    taken: int
    """Steps of the sampler that were taken."""
    latents: NDArray[np.float32]
    """(1, C, T, h, w): what the next step starts from; after the last one, what is decoded. Empty
    before the first, whose latents are the seed's noise."""
    origin: Mapping[str, object]
    """How it was being made: `bundle`, `output`, `device`, `precision`, `process`."""


def write_latents(path: Path, file: LatentsFile) -> None:
    """Write `file` to `path` atomically; raises OSError."""
    numbers = np.ascontiguousarray(file.latents, "<f4").tobytes()
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "taken": file.taken,
        "shape": list(file.latents.shape),
        "sha256": hashlib.sha256(numbers).hexdigest(),
        "settings": dict(file.settings),
        "origin": dict(file.origin),
    }
    with atomic_path(path) as partial:
        partial.write_bytes(json.dumps(header).encode() + b"\n" + numbers)


def read_latents(path: Path, header_only: bool = False) -> LatentsFile:
    """Read what `write_latents` wrote; raises OutputError where it is missing or damaged.

    `header_only` leaves the latents out, and does not look at them.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_HEADER)
            header = _header(line)
            size = math.prod(header["shape"]) * 4
            left = path.stat().st_size - len(line)
            if left != size:
                raise ValueError(f"{left} bytes of latents where {size} belong")
            numbers = b"" if header_only else file.read(size)
    except FileNotFoundError as error:
        raise OutputError(f"there is no file {path}: check the path") from error
    # RecursionError is JSON nested without end.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path} holds no latents of this project, or is damaged ({error}): "
            f"give a file that hb-run wrote"
        ) from error
    if not header_only and hashlib.sha256(numbers).hexdigest() != header["sha256"]:
        raise OutputError(f"{path} is damaged, its latents have another digest: make it again")
    shape = (0,) if header_only else header["shape"]
    latents = np.frombuffer(numbers, "<f4").astype(np.float32).reshape(shape)
    return LatentsFile(header["settings"], header["taken"], latents, header["origin"])


def _header(line: bytes) -> dict[str, Any]:
    """Return the first line's entries, of the kinds that they should be; raises ValueError."""
    header = json.loads(line)
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError("its first line says something else")
    if header["version"] != _VERSION:
        raise ValueError(f"its version is {header['version']!r}, this release reads {_VERSION}")
    shape, taken = header["shape"], header["taken"]
    if not isinstance(shape, list) or len(shape) not in (1, _RANK):
        raise ValueError(f"its shape is {shape!r}")
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise ValueError(f"its shape is {shape!r}")
    if type(taken) is not int or taken < 0:
        raise ValueError(f"it says {taken!r} steps")
    if not all(isinstance(header[name], dict) for name in ("settings", "origin")):
        raise ValueError("its settings are missing")
    if not isinstance(header["sha256"], str):
        raise ValueError("its digest is missing")
    return header
