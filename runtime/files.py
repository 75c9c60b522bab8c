"""Files and folders that appear whole or not at all, the user's cache, and small JSON records.

    with atomic_path(target) as partial:      a file, or a folder that the caller makes
        partial.write_bytes(...)
    with atomic_folder(target) as partial:    a folder that is there already
        (partial / "a.txt").write_text(...)
    recover(target)                           before one that may be missing is read

This is the only place that writes a temporary file and renames it, and that knows where
caches lie: `HUMMINGBIRD_CACHE` where it is set, else the system's folder for caches.
"""

import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = [
    "atomic_folder",
    "atomic_path",
    "cache_directory",
    "check_path",
    "is_running",
    "lock",
    "numbered_lines",
    "process_mark",
    "read_json",
    "read_record",
    "record_path",
    "recover",
    "require_inside",
    "sha256_of",
    "state_directory",
    "write_json",
    "write_record",
]

CACHE_VARIABLE = "HUMMINGBIRD_CACHE"
STATE_VARIABLE = "HUMMINGBIRD_STATE"
_PIECE = 1 << 22
_MAX_JSON = 2 << 20
"""Bytes of a JSON file, which becomes up to thirty times as many."""
_MAX_NAME, _MAX_PATH = 255, 1000
"""Bytes of a file's name on common systems, and of a path within a folder."""
_MARK = r"([0-9a-f]{8})-([0-9]{1,10})-([0-9]{1,12})"
"""Machine, process, and when that started."""
_LEFTOVER = re.compile(
    rf"\.(?P<name>.+)\.(?P<kind>partial|replaced)-(?P<mark>{_MARK})-[0-9a-f]{{8}}"
)
"""The name of what is half-written, or of what stepped aside."""
_EXCHANGE = 2
"""RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS."""
_AT_FDCWD = -100


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield an unused hidden name beside `target`; what is made there replaces `target` at the end.

    On any failure what was at `target` before is still there, and nothing is left beside it.
    Raises OSError.
    """
    _clear_leftovers(target.parent)
    partial = _sibling(target)
    try:
        yield partial
        _replace(partial, target)
    finally:
        _remove(partial)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that replaces it at the end, as `atomic_path` does."""
    with atomic_path(target) as partial:
        partial.mkdir(parents=True)
        yield partial


def check_path(target: Path) -> None:
    """Raise OSError where `atomic_path` could make nothing beside `target`."""
    partial = _sibling(target)
    try:
        partial.touch()
    finally:
        _remove(partial)


def recover(target: Path) -> None:
    """Bring back what was at `target` where a process was killed while it replaced that.

    `atomic_path` does so for a whole folder; whoever reads `target` does it before.
    """
    with suppress(OSError, RuntimeError, ValueError):  # no name that the system takes
        target = target.resolve()
        if not os.path.lexists(target):
            _clear_leftovers(target.parent, f".{glob.escape(target.name)}.replaced-*")


def _sibling(target: Path, kind: str = "partial") -> Path:
    """Return an unused hidden name beside `target`, with its suffix.

    A long name is cut, but for what stepped aside, which goes back to it.
    """
    name, end = target.name, f".{kind}-{process_mark()}-{secrets.token_hex(4)}{target.suffix}"
    while kind == "partial" and len(os.fsencode(f".{name}{end}")) > _MAX_NAME and len(name) > 1:
        name = name[:-1]
    return target.with_name(f".{name}{end}")


def _clear_leftovers(folder: Path, pattern: str = ".*") -> None:
    """Remove what killed processes have half-written in `folder`; bring back what they replaced."""
    for path in folder.glob(pattern):
        found = _LEFTOVER.match(path.name)
        if found is None or is_running(found["mark"]):
            continue
        target = path.with_name(found["name"])
        if found["kind"] == "replaced" and not os.path.lexists(target):
            with suppress(OSError):  # another process was faster, or the folder is read-only
                path.replace(target)
        else:
            _remove(path)


def _replace(partial: Path, target: Path) -> None:
    """Move `partial` to `target`, over a file or folder that is there."""
    if not target.is_dir():
        partial.replace(target)
    elif not _exchange(partial, target):
        _step_aside(partial, target)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, and tell whether system and file system could."""
    swap = _system_exchange()
    return swap is not None and swap(os.fsencode(one), os.fsencode(other)) == 0


@cache
def _system_exchange() -> Callable[[bytes, bytes], int] | None:
    """Return the system's function; None for Windows, which has none.

    Sources: rename(2) of Linux, renamex_np(2) of macOS.
    """
    if os.name != "posix":
        return None
    import ctypes

    path, number, flags = ctypes.c_char_p, ctypes.c_int, ctypes.c_uint
    try:
        library = ctypes.CDLL(None)
        if platform.system() == "Darwin":
            swap = library.renamex_np
            swap.argtypes = (path, path, flags)
            return lambda one, other: int(swap(one, other, _EXCHANGE))
        swap = library.renameat2
    except (AttributeError, OSError):  # an older C library
        return None
    swap.argtypes = (number, path, number, path, flags)
    return lambda one, other: int(swap(_AT_FDCWD, one, _AT_FDCWD, other, _EXCHANGE))


def _step_aside(partial: Path, target: Path) -> None:
    """Replace a folder in two steps: no rename goes over a full one.

    A process that is killed between them leaves the old one where `recover` finds it.
    """
    old = _sibling(target, "replaced")
    target.replace(old)
    try:
        partial.replace(target)
    except BaseException:
        old.replace(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def lock(path: Path, patience_s: float = 0.0) -> "Connection | None":
    """Hold the file `path` until the result is closed; None where another process does so longer.

    The system drops the lock when its process ends, however that happens. Raises OSError.
    """
    import sqlite3

    try:
        connection = sqlite3.connect(path, timeout=patience_s, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise OSError(f"{path} cannot be made: {error}") from error
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        connection.close()
        return None
    return connection


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def write_json(path: Path, entries: Mapping[str, Any]) -> None:
    """Write `entries` to `path`, the same bytes on every system; raises OSError."""
    path.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8", newline="\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file says.

    Raises OSError, or ValueError where it is no JSON, nests without end or has more than 2 MB.
    """
    with path.open("rb") as file:
        text = file.read(_MAX_JSON + 1)
    if len(text) > _MAX_JSON:
        raise ValueError(f"it has more than {_MAX_JSON} bytes")
    try:
        return json.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("its JSON nests without end") from error


def numbered_lines(file: BinaryIO, limit: int) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number from 1 on.

    Raises ValueError, which names the line, for one of more than `limit` bytes.
    """
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise ValueError(f"line {number} has more than {limit} bytes")
        if line.strip():
            yield number, line


def require_inside(name: str) -> None:
    """Raise ValueError unless `name` is a plain relative path that stays in its folder.

    It is one that every common file system can have.
    """
    path = PurePosixPath(name)
    try:
        sizes = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError as error:
        raise ValueError(f"the path {name!r} has letters that no file's name can have") from error
    if max(sizes, default=0) > _MAX_NAME or sum(sizes) > _MAX_PATH:
        raise ValueError(f"the path {name[:40]!r}... is too long for a file")
    if (
        not path.parts
        or "\\" in name
        or "\0" in name
        or ".." in path.parts
        or path.is_absolute()
        or PureWindowsPath(name).drive
    ):
        raise ValueError(f"the path {name!r} lies outside its folder")


def cache_directory(*parts: str) -> Path:
    """Return a folder of the user's cache; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).joinpath(*parts)
    from platformdirs import user_cache_path

    return user_cache_path("hummingbird-edge").joinpath(*parts)


def state_directory(*parts: str) -> Path:
    """Return a folder of the user's state, which unlike the cache is worth keeping."""
    chosen = os.environ.get(STATE_VARIABLE)
    if chosen:
        return Path(chosen).joinpath(*parts)
    from platformdirs import user_state_path

    return user_state_path("hummingbird-edge").joinpath(*parts)


@cache
def process_mark() -> str:
    """Return a text that names this process and machine, and no later process of its number."""
    from psutil import Process

    return f"{_host()}-{os.getpid()}-{int(Process().create_time())}"


def is_running(mark: object) -> bool:
    """Tell whether `mark` names a process that is there; one of another machine counts as there."""
    found = re.fullmatch(_MARK, mark) if isinstance(mark, str) else None
    if found is None:
        return False
    from psutil import STATUS_ZOMBIE, Error, Process

    host, process, started = found[1], int(found[2]), int(found[3])
    if host != _host():
        return True
    try:
        there = Process(process)
        return int(there.create_time()) == started and there.status() != STATUS_ZOMBIE
    except (Error, ValueError, OverflowError):
        return False


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def record_path(kind: str, *key: object) -> Path:
    """Return where the cache keeps the record of this `kind` for `key`, made of JSON values."""
    text = json.dumps(key, sort_keys=True)
    return cache_directory(kind) / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def read_record(path: Path) -> dict[str, Any]:
    """Return a record; an empty one where there is none or it is damaged."""
    try:
        entries = read_json(path)
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def write_record(path: Path, entries: Mapping[str, Any]) -> bool:
    """Write a record; False where the cache cannot be written, which only costs time later."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            write_json(partial, entries)
    except OSError:
        return False
    return True
