"""More frames a second by motion-compensated interpolation: FFmpeg's `minterpolate`.

FFmpeg estimates how blocks moved between two frames and moves them a part of the way. It invents
nothing: what turns, or comes into view, smears. PyAV carries FFmpeg.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import OutputError, RequestError

if TYPE_CHECKING:
    from av.filter.graph import Graph

__all__ = ["interpolate"]

_FILTER = "minterpolate"
_BLOCK = 8
"""Pixels along a side of what is moved: of 8 and 16, 8 was nearer to frames that were left out."""
# A generated video is one shot: no scene change is looked for.
_OPTIONS = f"mi_mode=mci:mc_mode=aobmc:mb_size={_BLOCK}:scd=none"
_MIN_SIDE = 4 * _BLOCK
_REPEATS = 3
"""The filter holds back frames: it needs some after the last one."""


def interpolate(frames: NDArray[np.uint8], fps: int, target_fps: int) -> NDArray[np.uint8]:
    """Return frames (T, H, W, 3) uint8 at `fps` as round(T target / fps) frames at `target_fps`.

    The video lasts as long as before, T / fps seconds. A frame whose time is a given frame's is
    that frame; after the last one nothing moves, for 1 / fps seconds, as nothing is known of it.
    Raises RequestError where `target_fps` is not more than `fps`, OutputError without the filter.
    """
    if target_fps <= fps:
        raise RequestError(
            f"interpolation is to give {target_fps} frames a second, and the video has {fps}: "
            f"give more, or leave interpolation out"
        )
    count, last = round(len(frames) * target_fps / fps), len(frames) - 1
    found = _between(frames, fps, target_fps) if last else iter(())
    made = np.empty((count, *frames.shape[1:]), np.uint8)
    for index in range(count):
        at = Fraction(index * fps, target_fps)
        between = next(found, None)
        if at >= last or between is None:
            made[index] = frames[last]
        else:
            made[index] = between if at.denominator > 1 else frames[at.numerator]
    return made


def _between(frames: NDArray[np.uint8], fps: int, target_fps: int) -> Iterator[NDArray[np.uint8]]:
    """Yield what the filter makes of `frames`, from time 0 on, one every 1 / target_fps s."""
    import av

    height, width = frames.shape[1:3]
    padding = _padding(frames)
    padded = np.pad(frames, padding, "edge") if any(map(any, padding)) else frames
    try:
        graph = _graph(padded, fps, target_fps)
        for index in range(len(padded) + _REPEATS):
            frame = av.VideoFrame.from_ndarray(padded[min(index, len(padded) - 1)], format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            graph.push(frame)
            for made in _pulled(graph):
                yield made[:height, :width]
    except (av.FFmpegError, ValueError) as error:
        raise OutputError(
            f"FFmpeg cannot interpolate the frames ({error}): leave interpolation out"
        ) from error


def _graph(frames: NDArray[np.uint8], fps: int, target_fps: int) -> "Graph":
    """Return a filter graph that takes and gives RGB."""
    import av
    from av.filter import Graph, filters_available

    if _FILTER not in filters_available:
        raise OutputError(
            f"this FFmpeg has no filter {_FILTER}, which interpolation needs: install PyAV from "
            f"PyPI, or leave interpolation out"
        )
    graph = Graph()
    height, width = frames.shape[1:3]
    nodes = [
        graph.add_buffer(
            width=width,
            height=height,
            format=av.VideoFormat("rgb24"),
            time_base=Fraction(1, fps),
        ),
        graph.add(_FILTER, f"fps={target_fps}:{_OPTIONS}"),
        graph.add("format", "pix_fmts=rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _pulled(graph: "Graph") -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (H, W, 3) that are ready."""
    import av
    from av.video.frame import VideoFrame

    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, VideoFrame)
        yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _padding(frames: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return how much to add to each axis, below and to the right.

    The filter works in whole blocks and needs some of them.
    """
    sides = [max(_MIN_SIDE, -(-side // _BLOCK) * _BLOCK) - side for side in frames.shape[1:3]]
    return [(0, 0), (0, sides[0]), (0, sides[1]), (0, 0)]
