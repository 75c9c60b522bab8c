"""The folder of a bundle: made beside its target, listed with digests, renamed when all is well."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.files import sha256_of

__all__ = ["beside", "files_of", "require_free", "write_json"]


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its place when all went well."""
    partial = out.parent / f".{out.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            _replace(out, partial)
        else:
            partial.rename(out)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({error.strerror or error}): check the folder and its space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, partial: Path) -> None:
    """Put `partial` in the place of `out`, which comes back where that fails."""
    old = out.parent / f".{out.name}.old-{uuid.uuid4().hex[:8]}"
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def require_free(out: Path, force: bool) -> None:
    """Raise OutputError where `out` is there already and is no bundle to be replaced."""
    if out.exists() and not (force and (out / MANIFEST).is_file()):
        advice = "choose another folder" + ("" if force else ", or replace a bundle with --force")
        raise OutputError(f"{out} is there already: {advice}")


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of every file below `folder` but the manifest, as it lists them."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


def write_json(path: Path, entries: dict[str, Any]) -> None:
    """Write `entries` to `path`, the same bytes on every system."""
    path.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8", newline="\n")
