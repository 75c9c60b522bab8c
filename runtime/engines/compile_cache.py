"""Where engines keep the models they have compiled, so that the second run need not compile.

One folder a bundle, under the user's cache. A file belongs to one graph, one size and one release
of its engine: the oldest go when they are too many.
"""

import contextlib
import hashlib
import io
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

__all__ = ["Mapped", "compiled_file", "compiled_folder", "write_compiled"]

_MAX_BYTES = 16 << 30


def compiled_folder(bundle_digest: str) -> Path | None:
    """Return the folder for a bundle's compiled models, or None where there can be none."""
    whole = user_cache_path("hummingbird-edge") / "compiled"
    folder = whole / bundle_digest[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(whole)
    except OSError:
        return None
    return folder


def compiled_file(folder: Path, *facts: object) -> Path:
    """Return the file of `folder` for the model that `facts` (JSON values) tell from others."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{key}.blob"


def write_compiled(path: Path, export: Callable[[io.BytesIO], None]) -> None:
    """Let `export` write to `path`, beside it first; a disk that is full leaves nothing there."""
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        with partial.open("wb") as file:
            export(_Streamed(file))
        partial.replace(path)
    except (OSError, RuntimeError):
        pass  # a cache that cannot be written costs a second compilation, nothing else
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


class _Streamed(io.BytesIO):
    """A BytesIO, which is what OpenVINO takes, that holds nothing: a U-Net is 1.5 GB."""

    def __init__(self, file: io.BufferedWriter) -> None:
        super().__init__()
        self._file = file

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()


class Mapped:
    """A file in memory, read when it is touched and let go when it is not needed."""

    def __init__(self, path: Path) -> None:
        """Map `path`; raises OSError, or ValueError for an empty file."""
        os.utime(path)  # the oldest file goes first
        with path.open("rb") as file:
            # Private, because engines ask for memory that may be written.
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def release(self) -> None:
        """Give the pages back where the system has a way; touching them reads them again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)


def _make_room(whole: Path) -> None:
    """Remove the files longest unused until no more than `_MAX_BYTES` are left."""
    files = sorted(
        (path for path in whole.rglob("*") if path.is_file()),
        key=lambda path: max(path.stat().st_atime, path.stat().st_mtime),
    )
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total <= _MAX_BYTES:
            return
        total -= path.stat().st_size
        with contextlib.suppress(OSError):
            path.unlink()
