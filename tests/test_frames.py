"""Frames of videos of any container, read without the others."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hummingbird_edge.distill.data.frames import read_frames

pytestmark = pytest.mark.slow  # codes videos

Frames = NDArray[np.uint8]


def numbered(path: Path, count: int, **options: str) -> None:
    """Write frames (32, 48) that grow darker and brighter, in groups of 12 with B-frames."""
    import av
    from av.video.stream import VideoStream

    codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
    settings = {"g": "12"} | ({"bf": "2"} if codec == "libx264" else {}) | options
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=settings)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for index in range(count):
            picture = np.full((32, 48, 3), 40 + 2 * abs(90 - index % 180), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_mkv(path: Path, frames: Frames) -> None:
    import av
    from av.video.stream import VideoStream

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"g": "8"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def all_frames(path: Path) -> Frames:
    import av

    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi"])
def test_the_frames_that_are_needed_are_found_in_every_container(tmp_path: Path, name: str) -> None:
    numbered(tmp_path / name, 89)
    every = all_frames(tmp_path / name)
    assert len(every) == 89
    for count in (1, 3, 7, 89):
        found = read_frames(tmp_path / name, count, 48, 32)
        assert np.array_equal(found, every[np.linspace(0, 88, count).round().astype(int)]), count


def test_a_variable_frame_rate_changes_no_frame(tmp_path: Path) -> None:
    import av

    numbered(tmp_path / "even.mp4", 60)
    path = tmp_path / "uneven.mp4"
    with av.open(str(tmp_path / "even.mp4")) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                packet.pts += 4 * max(0, packet.pts - 20 * 512)
                packet.dts += 4 * max(0, packet.dts - 20 * 512)
                packet.stream = stream
                container.mux(packet)
    found, every = read_frames(path, 7, 48, 32), all_frames(tmp_path / "even.mp4")
    assert np.array_equal(found, every[np.linspace(0, 59, 7).round().astype(int)])


def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    numbered(tmp_path / "long.mp4", 2000)
    tracemalloc.start()
    try:
        frames = read_frames(tmp_path / "long.mp4", 4, 192, 192)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frames.shape == (4, 192, 192, 3)
    assert peak < 8 * frames.nbytes
