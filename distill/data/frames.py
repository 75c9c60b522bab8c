"""Frames of one video file: evenly spaced ones, decoding few others, or all, one at a time.

Files come from strangers. A file is read in the one format that its name and its first bytes
promise, through a handle that is already open, so that a playlist inside opens no other file and no
address; frames of more than MAX_PIXELS are refused before they are decoded.
"""

import struct
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.data.storage import open_file

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from imageio.plugins.pillow import PillowPlugin

__all__ = ["SUFFIXES", "Header", "TooShortError", "opened_video", "read_frames"]

Frame = NDArray[np.uint8]

ANIMATIONS = {".gif": (b"GIF8", 0), ".webp": (b"WEBP", 8)}
"""Suffix to the bytes that identify the format, and where they stand."""
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
"""Suffix to FFmpeg's name of the format."""
SUFFIXES = (*CONTAINERS, *ANIMATIONS)
MAX_PIXELS = 1 << 26
"""Of one frame; 8K video has half as many."""


class TooShortError(ValueError):
    """Say that a video has fewer frames than are needed."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its video."""

    width: int
    height: int
    fps: float
    """0 where the file does not say."""


def read_frames(
    file: str | Path, count: int, width: int, height: int, part: slice = slice(None)
) -> NDArray[np.uint8]:
    """Return `count` evenly spaced frames (T, H, W, 3), scaled to fill and cut to the middle.

    `file` is a path or a URL that fsspec opens, `part` the frames among which to choose.
    Raises ValueError where the file cannot be decoded, TooShortError where it has fewer frames.
    """
    read = _animation_frames if _suffix(file) in ANIMATIONS else _container_frames
    return np.stack([_fitted(frame, width, height) for frame in read(file, count, part)])


@contextmanager
def opened_video(file: str | Path) -> "Iterator[tuple[Header, Iterator[VideoFrame]]]":
    """Open a video to decode it once, from its first frame to its last; raises ValueError."""
    if _suffix(file) in ANIMATIONS:
        with _animation(file) as (reader, total, header):
            yield header, _pictures(reader, total)
        return
    with _opened(file) as container:
        stream = container.streams.video[0]
        codec, rate = stream.codec_context, stream.average_rate or stream.guessed_rate
        yield Header(codec.width, codec.height, float(rate or 0)), container.decode(stream)


def _suffix(file: str | Path) -> str:
    return PurePath(file).suffix.lower()


def _spread(total: int, count: int, part: slice) -> list[int]:
    """Return the indices of `count` evenly spaced frames; raises TooShortError."""
    frames = range(total)[part]
    if len(frames) < count:
        raise TooShortError(f"{len(frames)} frames, {count} are needed")
    return [frames[int(index)] for index in np.linspace(0, len(frames) - 1, count).round()]


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise ValueError(f"its frames have {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"its frames have {width}x{height} pixels, {MAX_PIXELS} are allowed")


@contextmanager
def _animation(file: str | Path) -> "Iterator[tuple[PillowPlugin, int, Header]]":
    """Open a picture of several frames; yields its reader and how many they are."""
    import imageio.v3 as iio
    from imageio.plugins.pillow import PillowPlugin

    suffix = _suffix(file)
    mark, offset = ANIMATIONS[suffix]
    try:
        with open_file(file) as opened, warnings.catch_warnings():
            # Pillow warns of large pictures and damaged metadata.
            warnings.simplefilter("ignore")
            # imageio takes any picture whatever its suffix; for some Pillow starts a program.
            if not opened.read(16)[offset:].startswith(mark):
                raise ValueError(f"not a {suffix[1:]} file")
            opened.seek(0)
            with iio.imopen(opened, "r", plugin="pillow") as reader:
                assert isinstance(reader, PillowPlugin)
                whole = reader.properties(index=...)  # type: ignore[arg-type]  # its type says int
                total, height, width = whole.shape[:3]
                _check_size(width, height)
                frame_ms = reader.metadata().get("duration") or 0
                yield reader, total, Header(width, height, 1000 / frame_ms if frame_ms else 0.0)
    except _pillow_errors() as error:
        raise ValueError(f"not a picture that can be read ({error})") from error


def _pillow_errors() -> tuple[type[Exception], ...]:
    """Return what Pillow raises for damaged files: not only what it says."""
    from PIL import Image

    said = (OSError, EOFError, SyntaxError, Image.DecompressionBombError)
    return (*said, IndexError, KeyError, TypeError, struct.error)


def _animation_frames(file: str | Path, count: int, part: slice) -> Iterator[Frame]:
    with _animation(file) as (reader, total, _):
        for index in _spread(total, count, part):
            yield reader.read(index=index, mode="RGB")


def _pictures(reader: "PillowPlugin", total: int) -> "Iterator[VideoFrame]":
    from av import VideoFrame

    for index in range(total):
        yield VideoFrame.from_ndarray(reader.read(index=index, mode="RGB"), format="rgb24")


# imageio finds a frame by the rate that the header states, and cannot tell the decoder a limit: for
# containers PyAV is used directly.


@dataclass(frozen=True, slots=True)
class _Timeline:
    """When the frames of a stream are shown, in its time base."""

    times: Sequence[int]
    """Of every frame, in the order shown."""
    keys: Sequence[int]
    """Of the frames from which decoding can start, rising."""
    starts: Sequence[int]
    """Where to seek for each of `keys`."""

    def key_before(self, time: int) -> int:
        """Return the index in `keys` of the last one shown at `time` or before, -1 for none."""
        return bisect_right(self.keys, time) - 1


@contextmanager
def _opened(file: str | Path) -> Iterator["InputContainer"]:
    """Open a container whose frames are not too large; raises ValueError."""
    import av
    from av.container import InputContainer

    try:
        with (
            open_file(file) as opened,
            av.open(opened, format=CONTAINERS[_suffix(file)]) as container,
        ):
            assert isinstance(container, InputContainer)
            codec = container.streams.video[0].codec_context
            if codec is None:  # its type says that there is one
                raise ValueError("its video is in a coding that is not known")
            _check_size(codec.width, codec.height)
            codec.options = {"max_pixels": str(MAX_PIXELS)}  # a stream may grow later
            yield container
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"not a video that can be read ({error})") from error


def _container_frames(file: str | Path, count: int, part: slice) -> Iterator[Frame]:
    with _opened(file) as container:
        timeline = _timeline(container)
    if timeline is None:
        yield from _counted_frames(file, count, part)
        return
    with _opened(file) as container:
        times = [timeline.times[index] for index in _spread(len(timeline.times), count, part)]
        yield from _frames_at(container, times, timeline)


def _timeline(container: "InputContainer") -> _Timeline | None:
    """Read when frames are shown without decoding any; None where the file has no times."""
    times, keys = [], []
    for packet in container.demux(video=0):
        if not packet.size or packet.is_discard:
            continue
        if packet.pts is None:
            return None
        times.append(packet.pts)
        if packet.is_keyframe:
            # Some formats are searched by decoding time; from too early a place it is only slower.
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    keys.sort()
    return _Timeline(sorted(times), [pts for pts, _ in keys], [dts for _, dts in keys])


def _frames_at(
    container: "InputContainer", times: Sequence[int], timeline: _Timeline
) -> Iterator[Frame]:
    """Decode the frame shown at each of `times`, rising, from the nearest key frame before it."""
    stream = container.streams.video[0]
    frames = container.decode(stream)
    now = timeline.times[0]
    for time in times:
        key = timeline.key_before(time)
        if key > timeline.key_before(now):
            container.seek(timeline.starts[key], stream=stream)
            frames = container.decode(stream)
        frame = next((f for f in frames if f.pts is None or f.pts >= time), None)
        if frame is None:
            raise ValueError("not a video that can be read (it ends early)")
        now = time
        yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _counted_frames(file: str | Path, count: int, part: slice) -> Iterator[Frame]:
    """Decode everything twice, first to count, and convert only the frames that are needed."""
    with _opened(file) as container:
        total = sum(1 for _ in container.decode(video=0))
    wanted = _spread(total, count, part)
    with _opened(file) as container:
        for index, frame in enumerate(container.decode(video=0)):
            for _ in range(wanted.count(index)):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _fitted(frame: Frame, width: int, height: int) -> Frame:
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height)))
