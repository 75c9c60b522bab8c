"""Folders here or in an object store: what fsspec opens, with files that appear whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import atomic_path

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["Folder", "open_file"]

_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "updated", "created")
"""Where file systems say which version of a file there is."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, by its path or by a URL of fsspec's, such as `s3://bucket/videos`."""

    place: str

    @classmethod
    def at(cls, place: str | Path) -> "Folder":
        """Return the folder at `place`; raises RequestError for a URL that nothing here opens."""
        # Workers may have another current folder.
        folder = cls(str(place) if "://" in str(place) else Path(place).absolute().as_posix())
        try:
            folder._opened()
        except (ImportError, ValueError) as error:
            raise RequestError(f"{place} cannot be opened: {error}") from error
        return folder

    def __str__(self) -> str:
        return self.place

    @property
    def path(self) -> Path | None:
        """Where it is on this machine, None for one elsewhere."""
        system, root = self._opened()
        return Path(root) if _is_local(system) else None

    def find(self) -> dict[str, str]:
        """Return the files in the folder and below it, by name, with what tells their versions.

        Raises OSError, FileNotFoundError where there is no such folder.
        """
        system, root = self._opened()
        if not system.isdir(root):
            raise FileNotFoundError(f"there is no folder {self}")
        found = system.find(root, detail=True)
        return {path[len(root) :].lstrip("/"): _version(found[path]) for path in sorted(found)}

    def location(self, name: str) -> str:
        """Return what `open_file` takes for a file, on every machine that can reach it."""
        system, root = self._opened()
        if _is_local(system):
            return f"{root.rstrip('/')}/{name}"
        # The URL says more than the root: ftp and sftp leave the host out of it.
        scheme, _, rest = self.place.partition("://")
        return f"{scheme}://{rest.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""
        system, root = self._opened()
        return bool(system.exists(f"{root}/{name}"))

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises OSError."""
        with open_file(self.location(name)) as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file that appears whole or not at all; raises OSError."""
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a file that appears when all is written, or not at all; raises OSError."""
        system, root = self._opened()
        if _is_local(system):
            target = Path(root, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as partial, partial.open("wb") as local:
                yield local
            return
        with system.transaction, system.open(f"{root}/{name}", "wb") as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file."""
        system, root = self._opened()
        system.rm_file(f"{root}/{name}")

    def _opened(self) -> "tuple[AbstractFileSystem, str]":
        import fsspec

        if "://" not in self.place:  # where "::" is a part of a name
            return fsspec.filesystem("file"), self.place
        system, root = fsspec.url_to_fs(self.place)
        return system, root.rstrip("/")


def open_file(location: str | Path) -> BinaryIO:
    """Open a file by its path or URL to read and seek in it; raises OSError."""
    if "://" not in str(location):
        return Path(location).open("rb")
    import fsspec

    file: BinaryIO = fsspec.open(str(location), "rb").open()
    return file


def _is_local(system: "AbstractFileSystem") -> bool:
    return "file" in (system.protocol, *system.protocol)


def _version(entry: Mapping[str, object]) -> str:
    known = next((entry[key] for key in _VERSIONS if key in entry), "")
    return f"{entry.get('size')}-{known}"
