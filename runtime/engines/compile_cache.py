"""Compiled models that engines keep, so that the second run need not compile.

One folder per bundle in the user's cache. A file belongs to one graph, one size and one release of
its engine: the files that are longest unused go when there are too many. It ends with the SHA-256
of what is before: an engine would compute with a damaged model without a word.
"""

import contextlib
import hashlib
import io
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.files import atomic_path, cache_directory, check_path, sha256_of

__all__ = ["CompileCache", "Mapped"]

_MAX_BYTES = 16 << 30
_DIGEST = 32
"""Bytes of a SHA-256."""


@dataclass(frozen=True, slots=True)
class CompileCache:
    """The compiled models of one bundle."""

    folder: Path

    @classmethod
    def of_bundle(cls, digest: str) -> "CompileCache | None":
        """Return the cache of the bundle with this digest; None where there can be none."""
        whole = cache_directory("compiled")
        folder = whole / digest[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _make_room(whole)
        except OSError:
            return None
        return cls(folder)

    def file(self, *key: object) -> Path:
        """Return the file of the model that `key`, made of JSON values, tells from others."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{name}.blob"

    def room(self) -> int:
        """Return the bytes that can be written here: none where the folder is read-only."""
        try:
            check_path(self.folder / "room")
            return shutil.disk_usage(self.folder).free
        except OSError:
            return 0

    def write(self, path: Path, export: Callable[[io.BytesIO], None]) -> bool:
        """Let `export` write the file `path` and tell whether it is there.

        A disk that is full leaves nothing, which costs a second compilation and nothing else.
        """
        try:
            with atomic_path(path) as partial:
                with partial.open("wb") as file:
                    stream = _Streamed(file)
                    export(stream)
                if stream.error is not None:  # which the engine may have kept to itself
                    raise stream.error
                digest = bytes.fromhex(sha256_of(partial))
                with partial.open("ab") as file:
                    file.write(digest)
        except (OSError, RuntimeError):
            return False
        return True


class _Streamed(io.BytesIO):
    """A BytesIO, which is what OpenVINO takes, that holds nothing: a U-Net is 1.5 GB."""

    def __init__(self, file: io.BufferedWriter) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()


class Mapped:
    """A compiled model in memory, read when it is touched and let go when it is not needed."""

    def __init__(self, path: Path) -> None:
        """Map `path`; raises OSError, or ValueError for a file that is empty or damaged."""
        os.utime(path)  # the oldest file goes first
        with path.open("rb") as file:
            # Private, because engines ask for memory that may be written.
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        view = memoryview(self.memory)
        if hashlib.sha256(view[:-_DIGEST]).digest() != view[-_DIGEST:]:
            raise ValueError(f"{path} is damaged")

    @property
    def model(self) -> memoryview:
        """What the engine wrote."""
        return memoryview(self.memory)[:-_DIGEST]

    def release(self) -> None:
        """Give the pages back where the system has a way; touching them reads them again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)


def _make_room(whole: Path) -> None:
    """Remove the files longest unused until no more than `_MAX_BYTES` are left."""
    files = sorted(_files(whole))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= _MAX_BYTES:
            return
        total -= size
        with contextlib.suppress(OSError):
            path.unlink()


def _files(whole: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each file was used last, its size and its path.

    Other processes write and remove here: a file may be gone before it is looked at.
    """
    for path in whole.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                found = path.stat()
                yield max(found.st_atime, found.st_mtime), found.st_size, path
