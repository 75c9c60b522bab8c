"""MP4 with H.264; settings in the container's comment.

PyAV itself, not imageio: imageio's plugin for it takes no codec options (crf, colour tags) and
converts to YUV by BT.601; reading, it lets FFmpeg guess the container, playlists included.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.media.clip import Clip
from hummingbird_edge.runtime.media.decoded import MAX_FRAME_PIXELS, Decoded, check_frame_size

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

__all__ = ["check_size", "decode", "read", "write"]

# Rows give Y in [0, 1] and Cb, Cr in [-0.5, 0.5] for RGB in [0, 1], as BT.709 defines them.
RGB_TO_YCBCR = np.array(
    [
        [0.2126, 0.7152, 0.0722],
        [-0.2126 / 1.8556, -0.7152 / 1.8556, 0.5],
        [0.5, -0.7152 / 1.5748, -0.0722 / 1.5748],
    ],
    dtype=np.float32,
)
# The same for R, G and B of 0 to 255, and for chroma their sums over four pixels.
_LUMA = RGB_TO_YCBCR[0] * np.float32(219 / 255)
_CHROMA = RGB_TO_YCBCR[1:] * np.float32(224 / 255 / 4)

_BT709 = 1
"""FFmpeg's number of it."""
H264_OPTIONS = {
    "crf": "16",
    "preset": "veryfast",  # a third of the seconds of "medium", for 0.2 dB
    # With it the same frames became different pixels in different processes.
    "mbtree": "0",
    "colorspace": "bt709",
    "color_primaries": "bt709",
    "color_trc": "bt709",
    "color_range": "tv",
}
_SLICES = 4
"""Of a frame, a thread each; by itself FFmpeg takes one a core, so that cores changed the file."""


def write(path: Path, clip: Clip) -> None:
    """Encode `clip`; raises RequestError where its height or width is odd."""
    import av
    from av.video.stream import VideoStream

    height, width = clip.frames.shape[1:3]
    check_size(width, height)
    options = {"movflags": "+faststart"}
    try:
        with av.open(str(path), "w", format="mp4", options=options) as container:
            # Plain text fields take neither NUL nor half a surrogate pair; the JSON escapes both.
            title = clip.prompt.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
            container.metadata.update(title=title, comment=clip.text)
            stream = container.add_stream("libx264", rate=clip.fps, options=dict(H264_OPTIONS))
            assert isinstance(stream, VideoStream)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = _SLICES
            for index, rgb in enumerate(clip.frames):
                frame = av.VideoFrame.from_ndarray(yuv420(rgb), format="yuv420p")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def check_size(width: int, height: int) -> None:
    """Raise RequestError where the height or width is odd."""
    if height % 2 or width % 2:
        raise RequestError(
            f"frames of {width}x{height} cannot become an .mp4 because H.264 needs even sizes: "
            "choose an even width and height, or another format"
        )


def read(path: Path) -> str | None:
    """Return the comment."""
    import av

    try:
        # Naming the format and handing over an open file keeps playlists and URLs out.
        with path.open("rb") as file, av.open(file, format="mp4") as container:
            return container.metadata.get("comment")
    except av.FFmpegError as error:
        raise OSError(str(error)) from error


def decode(path: Path) -> Decoded:
    """Return the frames, evenly spaced at the average rate that the container states."""
    return Decoded.of(_frames(path))


def _frames(path: Path) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    """Yield each frame (H, W, 3) and the seconds that it is shown."""
    import av
    from av.container import InputContainer

    try:
        with path.open("rb") as file, av.open(file, format="mp4") as container:
            assert isinstance(container, InputContainer)
            stream = next(iter(container.streams.video), None)
            # PyAV's types leave out that a stream of an unknown codec has no context.
            context: VideoCodecContext | None = None if stream is None else stream.codec_context
            if stream is None or context is None:
                raise ValueError("it has no video that can be decoded")
            check_frame_size(context.width, context.height)
            context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # it may grow
            duration = float(1 / stream.average_rate) if stream.average_rate else None
            for frame in container.decode(stream):
                space = "ITU709" if frame.colorspace == _BT709 else None
                rgb = frame.to_ndarray(format="rgb24", src_colorspace=space)
                yield np.asarray(rgb, np.uint8), duration
    except av.FFmpegError as error:
        raise OSError(str(error)) from error


def yuv420(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert (H, W, 3) RGB to (H * 3 / 2, W) planar BT.709 4:2:0 of video range."""
    height, width = frame.shape[:2]
    planes = frame.transpose(2, 0, 1).astype(np.float32, order="C")
    fours = (
        planes[:, ::2, ::2] + planes[:, ::2, 1::2] + planes[:, 1::2, ::2] + planes[:, 1::2, 1::2]
    )
    luma = 16 + _LUMA @ planes.reshape(3, -1)
    chroma = 128 + _CHROMA @ fours.reshape(3, -1)
    yuv: NDArray[np.uint8] = np.rint(np.concatenate([luma, chroma.ravel()])).astype(np.uint8)
    return yuv.reshape(height * 3 // 2, width)
