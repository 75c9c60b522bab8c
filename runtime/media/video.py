"""Write frames as a video that remembers how it was made, and read those settings back.

    out.mp4    H.264, plays in a browser         settings in the container's comment
    out.gif    256 colours, loops                settings in the GIF comment
    out.webp   lossless, loops                   settings in EXIF ImageDescription
    out        a folder of frame_0000.png ...    settings in a text chunk of every frame

Settings are stored as ASCII JSON, which no container mangles and which holds any prompt.
"""

import itertools
import json
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import OutputError, RequestError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["check_output", "read_settings", "write_video"]

FRAME_NAME = "frame_{:04d}.png"
FRAME_PATTERN = re.compile(r"frame_\d{4,}\.png")
PNG_KEYWORD = "hummingbird-edge"
IMAGE_DESCRIPTION = 0x010E

# Rows give Y in [0, 1] and Cb, Cr in [-0.5, 0.5] for RGB in [0, 1], as BT.709 defines them.
RGB_TO_YCBCR = np.array(
    [
        [0.2126, 0.7152, 0.0722],
        [-0.2126 / 1.8556, -0.7152 / 1.8556, 0.5],
        [0.5, -0.7152 / 1.5748, -0.0722 / 1.5748],
    ],
    dtype=np.float32,
)

H264_OPTIONS = {
    "crf": "16",
    "preset": "medium",
    # With it the same frames became different pixels in different processes.
    "mbtree": "0",
    "colorspace": "bt709",
    "color_primaries": "bt709",
    "color_trc": "bt709",
    "color_range": "tv",
}


@dataclass(frozen=True, slots=True)
class _Clip:
    """Hold what every writer needs: frames (T, H, W, 3) uint8, fps, prompt and settings JSON."""

    frames: NDArray[np.uint8]
    fps: int
    prompt: str
    text: str

    def durations(self, unit: int) -> list[int]:
        """Return how many milliseconds each frame shows, in multiples of `unit` milliseconds."""
        # Rounding the edges, not the lengths, keeps the whole clip in time: 8 fps in a GIF is
        # 120, 130, 120 ... and not 120 throughout.
        edges = [round(i * 1000 / self.fps / unit) for i in range(len(self.frames) + 1)]
        return [max(1, end - start) * unit for start, end in itertools.pairwise(edges)]


def check_output(path: Path) -> None:
    """Fail before any work if `path` cannot become a video.

    The suffix chooses the format: .mp4, .gif, .webp, or none for a folder of PNG frames.
    Raises RequestError for any other suffix, and OutputError if the parent folder is missing or
    not writable, or if replacing what is at `path` could destroy something else.
    """
    kind = path.suffix.lower()
    if kind not in _WRITERS:
        raise RequestError(
            f"Output {path} has the unknown suffix {path.suffix!r}: end it in .mp4, .gif or .webp, "
            "or give no suffix for a folder of PNG frames."
        )
    _check_target(path, is_folder=not kind)
    target = path.resolve()
    if not target.parent.is_dir():
        raise OutputError(
            f"Output {path} cannot be written because {target.parent} is not an existing folder: "
            "create it or choose another place."
        )
    try:
        with _partial(target) as probe:
            probe.touch()
    except OSError as error:
        raise OutputError(
            f"Output {path} cannot be written because {target.parent} does not take a new file "
            f"({error.strerror or error}): choose another name or a folder you can write to."
        ) from error


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
    clip = _clip(frames, fps, settings)
    kind, target = path.suffix.lower(), path.resolve()
    height, width = frames.shape[1:3]
    if kind == ".mp4" and (height % 2 or width % 2):
        raise RequestError(
            f"Frames of {width}x{height} cannot become {path} because H.264 needs even sizes: "
            "choose an even width and height, or another format."
        )
    try:
        with _partial(target) as partial:
            _WRITERS[kind](partial, clip)
            _replace(partial, target)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OutputError(
            f"Output {path} could not be written ({reason}): free some space or choose another "
            "place or format."
        ) from error


def read_settings(path: Path) -> dict[str, object]:
    """Return the settings that `write_video` embedded in the video at `path`.

    `path` is an .mp4, .gif or .webp file, a folder of frames, or one PNG frame of it. The file
    is not trusted: no frame is shown to the caller and only a JSON object is returned. Raises
    OutputError if `path` is missing, of another kind, damaged, or holds no settings.
    """
    source = path / FRAME_NAME.format(0) if path.is_dir() else path
    kind = source.suffix.lower()
    if not source.is_file():
        raise OutputError(f"Video {source} does not exist as a file: check the path.")
    if kind not in _READERS:
        raise OutputError(
            f"File {path} is no video of this project because its suffix is {path.suffix!r}: give "
            "an .mp4, .gif or .webp file or a folder of frames."
        )
    try:
        text = _READERS[kind](source)
        settings = None if text is None else json.loads(text)
    # SyntaxError is how Pillow reports a broken PNG, RecursionError JSON nested without end.
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise OutputError(
            f"Video {path} cannot be read, it is damaged or holds something else "
            f"({type(error).__name__}): give a file that hb-run wrote."
        ) from error
    if not isinstance(settings, dict):
        raise OutputError(
            f"Video {path} holds no settings: give a file that hb-run wrote and that no other "
            "program has re-encoded since."
        )
    return settings


def _check_target(path: Path, *, is_folder: bool) -> None:
    """Raise OutputError if what is at `path` is not what a video there may replace."""
    if not path.exists():
        return
    if path.is_dir() != is_folder:
        found, wanted = ("folder", "file") if path.is_dir() else ("file", "folder of frames")
        raise OutputError(
            f"Output {path} is an existing {found} but a {wanted} is to be written: choose "
            "another name."
        )
    if is_folder and not _is_ours(path):
        raise OutputError(
            f"Output folder {path} holds other things than frames written by this project, or is "
            "the current folder, and will not be replaced: choose another name."
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
    return all(FRAME_PATTERN.fullmatch(name) for name in names)


def _clip(frames: NDArray[np.uint8], fps: int, settings: Mapping[str, object]) -> _Clip:
    """Check the arguments of `write_video`, or raise RequestError."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise RequestError(
            f"Frames must be non-empty (T, H, W, 3) uint8, but {frames.shape} {frames.dtype} was "
            "found: convert them first."
        )
    if fps < 1:
        raise RequestError(f"A video needs at least 1 frame a second, not {fps}: raise it.")
    try:
        text = json.dumps(dict(settings), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"Settings cannot be stored as JSON ({error}): use only text, finite numbers, lists "
            "and mappings."
        ) from error
    return _Clip(frames, fps, str(settings.get("prompt", "")), text)


def _sibling(target: Path) -> Path:
    """Return an unused hidden name beside `target`, with its suffix."""
    return target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}{target.suffix}")


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Yield a name beside `target` to write to; what is left there at the end is removed."""
    partial = _sibling(target)
    try:
        yield partial
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _replace(partial: Path, target: Path) -> None:
    """Move `partial` to `target`, over a file or folder that is there."""
    if not target.is_dir():
        partial.replace(target)
        return
    # No system renames a folder over a full one, so the old one steps aside first.
    old = _sibling(target)
    target.replace(old)
    try:
        partial.replace(target)
    except BaseException:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _yuv420(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert (H, W, 3) RGB to (H * 3 / 2, W) planar BT.709 4:2:0 of video range."""
    # Done here because the encoder's own conversion is BT.601 whatever the stream is tagged.
    height, width = frame.shape[:2]
    ycbcr = (frame.astype(np.float32) / 255) @ RGB_TO_YCBCR.T
    luma = 16 + 219 * ycbcr[..., 0]
    chroma = 128 + 224 * ycbcr[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    planes = [luma.ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()]
    yuv: NDArray[np.uint8] = np.rint(np.concatenate(planes)).astype(np.uint8)
    return yuv.reshape(height * 3 // 2, width)


def _write_mp4(path: Path, clip: _Clip) -> None:
    import av
    from av.video.stream import VideoStream

    options = {"movflags": "+faststart"}
    try:
        with av.open(str(path), "w", format="mp4", options=options) as container:
            # Plain text fields take neither NUL nor half a surrogate pair; the JSON escapes both.
            title = clip.prompt.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
            container.metadata.update(title=title, comment=clip.text)
            stream = container.add_stream("libx264", rate=clip.fps, options=dict(H264_OPTIONS))
            assert isinstance(stream, VideoStream)
            stream.height, stream.width = clip.frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for index, rgb in enumerate(clip.frames):
                frame = av.VideoFrame.from_ndarray(_yuv420(rgb), format="yuv420p")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _write_gif(path: Path, clip: _Clip) -> None:
    from PIL import Image

    # One palette for the whole clip: palettes made frame by frame flicker.
    every = Image.fromarray(clip.frames.reshape(-1, *clip.frames.shape[2:]))
    palette = every.quantize(256, method=Image.Quantize.MEDIANCUT)
    images = [Image.fromarray(frame).quantize(palette=palette) for frame in clip.frames]
    _save_all(path, images, format="GIF", duration=clip.durations(10), comment=clip.text.encode())


def _write_webp(path: Path, clip: _Clip) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = clip.text
    images = [Image.fromarray(frame) for frame in clip.frames]
    durations = clip.durations(1)
    _save_all(path, images, format="WEBP", duration=durations, lossless=True, exif=exif)


def _save_all(path: Path, images: list["Image.Image"], **options: Any) -> None:
    """Save `images` as one endless animation; a list of one becomes a still."""
    images[0].save(path, save_all=True, append_images=images[1:], loop=0, **options)


def _write_folder(path: Path, clip: _Clip) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(PNG_KEYWORD, clip.text)
    path.mkdir()
    for index, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(path / FRAME_NAME.format(index), pnginfo=info)


def _read_mp4(path: Path) -> str | None:
    import av

    try:
        # Naming the format and handing over an open file keeps playlists and URLs out.
        with path.open("rb") as file, av.open(file, format="mp4") as container:
            return container.metadata.get("comment")
    except av.FFmpegError as error:
        raise OSError(str(error)) from error


def _read_image(path: Path) -> str | bytes | None:
    from PIL import Image

    kind = path.suffix[1:].upper()
    with warnings.catch_warnings():
        # Pillow warns of damaged EXIF and of huge pictures, whose pixels are not touched here.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=[kind]) as image:
                if kind == "WEBP":
                    text = image.getexif().get(IMAGE_DESCRIPTION)
                else:
                    text = image.info.get("comment" if kind == "GIF" else PNG_KEYWORD)
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error
    return text if isinstance(text, str | bytes) else None


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp, "": _write_folder}
_READERS = {".mp4": _read_mp4, ".gif": _read_image, ".webp": _read_image, ".png": _read_image}
