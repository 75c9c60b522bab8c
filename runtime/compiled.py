"""Where engines keep the models they compiled, under the user's cache folder.

A compiled model of full size is gigabytes and belongs to one graph, one size and one release of
its engine: the oldest go when they are too many.
"""

import contextlib
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["compiled_folder"]

_MOST_BYTES = 16 << 30


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


def _make_room(whole: Path) -> None:
    """Remove the files longest unused until no more than `_MOST_BYTES` are left."""
    files = sorted(
        (path for path in whole.rglob("*") if path.is_file()),
        key=lambda path: max(path.stat().st_atime, path.stat().st_mtime),
    )
    total = sum(path.stat().st_size for path in files)
    for path in files:
        if total <= _MOST_BYTES:
            return
        total -= path.stat().st_size
        with contextlib.suppress(OSError):
            path.unlink()
