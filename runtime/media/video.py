"""Write frames as a video that remembers how it was made, and read those settings back.

The formats, and where each keeps the settings, are in `formats.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.files import atomic_path, check_path, recover
from hummingbird_edge.runtime.media import mp4
from hummingbird_edge.runtime.media.clip import Clip
from hummingbird_edge.runtime.media.formats import DECODERS, READERS, WRITERS, written_suffixes
from hummingbird_edge.runtime.media.png import first_frame, is_frame

__all__ = ["check_output", "read_frames", "read_settings", "write_video"]


def check_output(path: Path, size: tuple[int, int] | None = None) -> None:
    """Fail before any work if `path` cannot become a video.

    The suffix chooses the format: .mp4, .gif, .webp, or none for a folder of PNG frames.
    Raises RequestError for any other suffix, or where the format has no frames of `size` (width,
    height); and OutputError if the parent folder is missing or
    not writable, or if replacing what is at `path` could destroy something else.
    """
    if path.suffix.lower() not in WRITERS:
        raise RequestError(
            f"output {path} has the unknown suffix {path.suffix!r}: end it in "
            f"{written_suffixes()}, or give no suffix for a folder of PNG frames"
        )
    if size is not None and path.suffix.lower() == ".mp4":
        mp4.check_size(*size)
    try:
        path.lstat()  # raises for a name that is too long
    except (FileNotFoundError, NotADirectoryError):
        pass  # the parent is looked at below
    except OSError as error:
        raise _refused(path, error) from error
    recover(path)
    _check_target(path, is_folder=not path.suffix)
    target = path.resolve()
    if not target.parent.is_dir():
        raise OutputError(
            f"output {path} cannot be written because {target.parent} is not an existing folder: "
            "create it or choose another place"
        )
    try:
        check_path(target)
    except OSError as error:
        raise _refused(target, error) from error


def _refused(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"output {target} cannot be written because {target.parent} does not take a new file "
        f"({error.strerror or error}): choose another name or a folder you can write to"
    )


def write_video(
    path: Path, frames: NDArray[np.uint8], fps: int, settings: Mapping[str, object]
) -> None:
    """Write `frames` to `path` in the format its suffix names, with `settings` embedded.

    `frames` is (T, H, W, 3) uint8 RGB with T, H, W >= 1, H and W even for .mp4; `fps` >= 1;
    `settings` can be expressed in JSON. The file appears whole or not at all: on any failure
    what was at `path` before is still there. Raises RequestError for arguments that break these
    rules, and OutputError if the result cannot be written.
    """
    check_output(path)
    clip = Clip.of(frames, fps, settings)
    write = WRITERS[path.suffix.lower()]
    try:
        with atomic_path(path.resolve()) as partial:
            write(partial, clip)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OutputError(
            f"output {path} could not be written ({reason}): free some space or choose another "
            "place or format"
        ) from error


def read_settings(path: Path) -> dict[str, object]:
    """Return the settings that `write_video` embedded in the video at `path`.

    `path` is an .mp4, .gif or .webp file, a folder of frames, or one PNG frame of it. The file
    is not trusted: no frame is shown to the caller and only a JSON object is returned. Raises
    OutputError if `path` is missing, of another kind, damaged, or holds no settings.
    """
    source = _source(path)
    read = READERS[source.suffix.lower()]
    try:
        text = read(source)
        settings = None if text is None else json.loads(text)
    # SyntaxError is how Pillow reports a broken PNG, RecursionError JSON nested without end.
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise OutputError(
            f"video {path} cannot be read, it is damaged or holds something else "
            f"({type(error).__name__}): give a file that hb-run wrote"
        ) from error
    if not isinstance(settings, dict):
        raise OutputError(
            f"video {path} holds no settings: give a file that hb-run wrote and that no other "
            "program has re-encoded since"
        )
    return settings


def read_frames(path: Path, recorded_fps: object = None) -> tuple[NDArray[np.uint8], int]:
    """Return the frames (T, H, W, 3) uint8 of a video that `write_video` could have written.

    They are evenly spaced; with them come the frames a second: `recorded_fps`, what its settings
    say, where the file does not contradict that.

    `path` is an .mp4, .gif or .webp file or a folder of frames, from anywhere. Raises OutputError
    if it is missing, of another kind, damaged or too large.
    """
    source = _source(path)
    try:
        decoded = DECODERS[source.suffix.lower()](source)
        fps = decoded.fps(recorded_fps)
        return decoded.at(fps), fps
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise OutputError(
            f"the frames of {path} cannot be read ({error}): give another {written_suffixes()} "
            f"file or folder of frames"
        ) from error


def _source(path: Path) -> Path:
    """Return the file of a video, or a folder's first frame; raises OutputError."""
    recover(path)
    source = first_frame(path) if path.is_dir() else path
    if not source.is_file():
        raise OutputError(f"video {source} does not exist as a file: check the path")
    if source.suffix.lower() not in READERS:
        raise OutputError(
            f"file {path} is no video of this project because its suffix is {path.suffix!r}: give "
            f"a {written_suffixes()} file or a folder of frames"
        )
    return source


def _check_target(path: Path, *, is_folder: bool) -> None:
    """Raise OutputError if what is at `path` is not what a video there may replace."""
    if not path.exists():
        return
    if path.is_dir() != is_folder:
        found, wanted = ("folder", "file") if path.is_dir() else ("file", "folder of frames")
        raise OutputError(
            f"output {path} is an existing {found} but a {wanted} is to be written: choose "
            "another name"
        )
    if is_folder and not _is_ours(path):
        raise OutputError(
            f"output folder {path} holds other things than frames written by this project, or is "
            "the current folder, and will not be replaced: choose another name"
        )


def _is_ours(folder: Path) -> bool:
    """Tell whether `folder` is empty or holds frames of ours alone."""
    if folder.resolve() == Path.cwd().resolve():
        return False
    try:
        names = [entry.name for entry in folder.iterdir()]
        if names:
            # Other programs number frames just like this, so the name alone proves nothing.
            read_settings(folder)
    except (OSError, OutputError):
        return False
    return all(is_frame(name) for name in names)
