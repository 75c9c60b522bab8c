"""A bundle's folder: written under a temporary name, listed with digests, then renamed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hummingbird_edge.kernels.variant import GRAPH
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.files import atomic_folder, recover, sha256_of

__all__ = ["GRAPH", "WEIGHTS", "files_of", "new_bundle", "require_free"]


WEIGHTS = "model.onnx_data"
"""The file of a plain graph's weights."""


@contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` on success; raises OutputError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(out) as partial:
            yield partial
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({error.strerror or error}): check the folder and its space"
        ) from error


def require_free(out: Path, force: bool) -> None:
    """Raise OutputError if `out` exists and is not a bundle that may be replaced."""
    recover(out)
    if out.exists() and not (force and (out / MANIFEST).is_file()):
        advice = "choose another folder" + ("" if force else ", or replace a bundle with --force")
        raise OutputError(f"{out} is there already: {advice}")


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of every file in `folder` except the manifest, in its format."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if path != folder / MANIFEST]
    with ThreadPoolExecutor() as pool:  # hashing leaves Python to other threads
        digests = list(pool.map(sha256_of, files))
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, digests, strict=True)
    }
