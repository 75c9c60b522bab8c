"""Snapshots of the Hugging Face cache, whose files are links, as folders of files."""

import os
import shutil
from pathlib import Path

from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import atomic_folder, record_path

__all__ = ["with_real_files"]


def with_real_files(folder: Path) -> Path:
    """Return `folder`, or for a snapshot in the Hugging Face cache one with files for its links.

    OpenVINO reads no weights through a link that leaves the graph's folder. The files are
    hard links into the cache where the file system has them, else copies. Raises BundleError.
    """
    try:
        home = folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"the folder {str(folder)!r} cannot be followed ({error}): check the path"
        ) from error
    if home.parent.name != "snapshots" or not home.parent.parent.name.startswith("models--"):
        return folder
    view, blobs = record_path("hub", str(home)).with_suffix(""), home.parent.parent / "blobs"
    if view.is_dir():
        return view
    try:
        view.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(view) as partial:
            for path in home.rglob("*"):
                if path.is_file() and path.resolve().is_relative_to(blobs):
                    target = partial / path.relative_to(home)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(path.resolve(), target)
    except OSError as error:
        raise BundleError(
            f"the files of {folder} cannot be linked or copied into {view.parent} ({error}): "
            f"make room there, or set HUMMINGBIRD_CACHE to another folder"
        ) from error
    return view


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
