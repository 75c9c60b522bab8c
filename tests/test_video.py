"""Videos: frames and settings survive every format, and a failure leaves nothing behind."""

import contextlib
import io
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from hummingbird_edge.runtime import files
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.media import mp4, video

NAMES = ["out.mp4", "out.gif", "out.webp", "out"]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 150, 30)]
SETTINGS: dict[str, object] = {
    "prompt": 'a "cat" 🐈\u200d⬛\n\t\\ \x00 \ud800 é \' </x:xmpmeta> \u2028 猫',
    "seed": 2**63,
    "size": [64, 64],
    "nested": {"guidance": 7.5, "negative": None, "": True},
}


def flat(count: int = len(COLOURS), size: int = 64) -> NDArray[np.uint8]:
    """Make `count` frames of one colour each, no two neighbours alike."""
    colours = np.array([COLOURS[i % len(COLOURS)] for i in range(count)], np.uint8)
    return np.tile(colours[:, None, None], (1, size, size, 1))


def noise(count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 24, 40, 3), dtype=np.uint8)


def images(path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    """Decode a GIF or WebP into RGB frames and their durations in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(int(image.info["duration"]))
    return np.stack(frames), durations


def error(decoded: NDArray[np.uint8], frames: NDArray[np.uint8]) -> float:
    """Return the largest mean absolute difference of any frame and channel."""
    assert decoded.shape == frames.shape
    return float(np.abs(decoded.astype(int) - frames).mean(axis=(1, 2)).max())


def bt709(frame: Any) -> NDArray[np.uint8]:
    """Show a decoded 4:2:0 frame as a browser would, with the usual rounded coefficients."""
    height, width = frame.height, frame.width
    planes = np.split(
        frame.to_ndarray().ravel().astype(np.float64), [height * width, height * width * 5 // 4]
    )
    y = 1.164 * (planes[0].reshape(height, width) - 16)
    u, v = (
        plane.reshape(height // 2, width // 2).repeat(2, 0).repeat(2, 1) - 128
        for plane in planes[1:]
    )
    rgb = np.stack([y + 1.793 * v, y - 0.213 * u - 0.533 * v, y + 2.112 * u], axis=-1)
    return rgb.clip(0, 255).round().astype(np.uint8)


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("count", [1, 6])
def test_mp4_is_h264_in_the_right_colours(tmp_path: Path, count: int) -> None:
    frames = flat(count)
    video.write_video(tmp_path / "out.mp4", frames, 8, SETTINGS)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 8
        assert (stream.duration or 0) * (stream.time_base or 0) == Fraction(count, 8)
        # 1 is BT.709 for each of these and, for the range, video levels.
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.color_range == 1
        shown = [bt709(frame) for frame in container.decode(video=0)]
    assert error(np.stack(shown), frames) < 4


def test_mp4_starts_with_its_index_and_names_the_prompt(tmp_path: Path) -> None:
    video.write_video(tmp_path / "out.mp4", flat(2), 8, {"prompt": "a cat"})
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        assert container.metadata["title"] == "a cat"


def test_chroma_is_the_mean_of_four_pixels() -> None:
    frame = flat(1, size=2)[0]
    frame[0] = 0
    red, half = mp4.yuv420(flat(1, size=2)[0]), mp4.yuv420(frame)
    assert red.ravel().tolist() == [63, 63, 63, 63, 102, 240]
    assert half.ravel().tolist() == [16, 16, 63, 63, 115, 184]


def test_luma_and_chroma_are_the_nearest_numbers() -> None:
    frame = noise(1)[0]
    exact = (frame / 255) @ mp4.RGB_TO_YCBCR.astype(np.float64).T
    height, width = frame.shape[:2]
    fours = exact.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    planes = [16 + 219 * exact[..., 0], *(128 + 224 * fours[..., i] for i in (1, 2))]
    expected = np.concatenate([plane.ravel() for plane in planes])
    assert np.abs(mp4.yuv420(frame).ravel() - expected).max() < 0.501


def test_gif_keeps_colours_order_and_time(tmp_path: Path) -> None:
    frames = flat()
    video.write_video(tmp_path / "out.gif", frames, 8, SETTINGS)
    decoded, durations = images(tmp_path / "out.gif")
    assert error(decoded, frames) < 2
    assert set(durations) == {120, 130}
    assert sum(durations) == 750
    with Image.open(tmp_path / "out.gif") as image:
        assert image.info["loop"] == 0


def test_webp_is_lossless(tmp_path: Path) -> None:
    video.write_video(tmp_path / "out.webp", noise(), 8, SETTINGS)
    decoded, durations = images(tmp_path / "out.webp")
    assert np.array_equal(decoded, noise())
    assert durations == [125, 125, 125]


def test_folder_is_lossless_and_every_frame_knows_its_settings(tmp_path: Path) -> None:
    video.write_video(tmp_path / "out", noise(), 8, SETTINGS)
    assert left(tmp_path / "out") == ["frame_0000.png", "frame_0001.png", "frame_0002.png"]
    for frame, path in zip(noise(), sorted((tmp_path / "out").iterdir()), strict=True):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), frame)
        assert video.read_settings(path) == SETTINGS


@pytest.mark.parametrize("name", [*NAMES, "OUT.MP4", "катя 🐈.gif"])
@pytest.mark.parametrize("count", [1, 3])
def test_settings_round_trip(tmp_path: Path, name: str, count: int) -> None:
    if not name.isascii() and sys.getfilesystemencoding() == "ascii":
        pytest.skip("this system cannot have such a name")
    path = tmp_path / name
    video.write_video(path, flat(count), 8, SETTINGS)
    assert video.read_settings(path) == SETTINGS
    long: dict[str, object] = {"prompt": "猫" * 30_000}
    video.write_video(path, flat(count), 8, long)
    assert video.read_settings(path) == long
    assert left(tmp_path) == [name]


@pytest.mark.parametrize("name", ["out.avi", "out.png", "out.mp4.txt", "v1.5"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="unknown suffix"):
        video.check_output(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_check_output_accepts_and_leaves_no_trace(tmp_path: Path, name: str) -> None:
    video.check_output(tmp_path / name)
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_parent_missing_or_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    for parent in ("missing", "file"):
        with pytest.raises(OutputError, match="not an existing folder"):
            video.check_output(tmp_path / parent / name)


def test_parent_that_takes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        video.check_output(tmp_path / "out.mp4")


def test_name_too_long_is_found_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not take a new file"):
        video.check_output(tmp_path / ("x" * 252 + ".mp4"))


def test_target_of_the_other_kind(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    (tmp_path / "out").write_text("text", encoding="utf-8")
    with pytest.raises(OutputError, match="existing folder"):
        video.check_output(tmp_path / "out.mp4")
    with pytest.raises(OutputError, match="existing file"):
        video.check_output(tmp_path / "out")


def test_folder_of_others_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    video.write_video(out, noise(), 8, SETTINGS)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="other things"):
        video.write_video(out, noise(), 8, SETTINGS)
    assert "notes.txt" in left(out)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    Image.fromarray(noise()[0]).save(theirs / "frame_0000.png")
    with pytest.raises(OutputError, match="other things"):
        video.check_output(theirs)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputError, match="current folder"):
        video.check_output(Path())


def test_own_folder_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    video.write_video(out, noise(5), 8, SETTINGS)
    video.write_video(out, noise(2), 8, {"prompt": "new"})
    assert left(out) == ["frame_0000.png", "frame_0001.png"]
    assert video.read_settings(out) == {"prompt": "new"}
    assert left(tmp_path) == ["out"]


@pytest.mark.parametrize("reason", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", NAMES)
def test_failing_encoder_leaves_the_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: BaseException
) -> None:
    path = tmp_path / name
    video.write_video(path, flat(3), 8, {"prompt": "old"})
    before = path.read_bytes() if path.is_file() else left(path)

    def fail_midway(step: Callable[..., object], good_calls: int) -> Callable[..., object]:
        calls: list[tuple[object, ...]] = []

        def failing(*args: object, **options: object) -> object:
            calls.append(args)
            if len(calls) <= good_calls:
                return step(*args, **options)
            if isinstance(args[-1], io.BufferedWriter):
                args[-1].write(b"half a picture")
            raise reason

        return failing

    with monkeypatch.context() as patch:
        # Pillow saves an animation in one call, and a folder in one call for each frame.
        patch.setattr(mp4, "yuv420", fail_midway(mp4.yuv420, 1))
        patch.setattr(Image.Image, "save", fail_midway(Image.Image.save, int(name == "out")))
        expected = OutputError if isinstance(reason, OSError) else KeyboardInterrupt
        with pytest.raises(expected, match=r"No space left on device|^$"):
            video.write_video(path, flat(3), 8, {"prompt": "new"})
    assert left(tmp_path) == [name]
    assert before == (path.read_bytes() if path.is_file() else left(path))
    assert video.read_settings(path) == {"prompt": "old"}


@pytest.mark.parametrize("name", NAMES)
def test_failing_move_leaves_the_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    video.write_video(path, flat(3), 8, {"prompt": "old"})
    real = Path.replace

    def failing(source: Path, target: Path) -> Path:
        new = source.is_file() or video.read_settings(source) == {"prompt": "new"}
        if target == path and new:
            raise PermissionError(13, "Permission denied")
        return real(source, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="Permission denied"):
        video.write_video(path, flat(3), 8, {"prompt": "new"})
    assert left(tmp_path) == [name]
    assert video.read_settings(path) == {"prompt": "old"}


def test_odd_size_fails_for_mp4_alone(tmp_path: Path) -> None:
    odd = noise()[:, :23, :39]
    with pytest.raises(RequestError, match="39x23"):
        video.write_video(tmp_path / "out.mp4", odd, 8, SETTINGS)
    video.write_video(tmp_path / "out.webp", odd, 8, SETTINGS)
    assert np.array_equal(images(tmp_path / "out.webp")[0], odd)


@pytest.mark.parametrize(
    ("frames", "fps", "settings"),
    [
        (noise(), 0, {}),
        (noise()[:0], 8, {}),
        (noise()[0], 8, {}),
        (noise()[..., :1], 8, {}),
        (noise().astype(np.float32), 8, {}),
        (noise(), 8, {"path": Path("x")}),
        (noise(), 8, {"strength": float("nan")}),
    ],
)
def test_senseless_arguments(
    tmp_path: Path, frames: NDArray[np.uint8], fps: int, settings: dict[str, object]
) -> None:
    with pytest.raises(RequestError):
        video.write_video(tmp_path / "out.mp4", frames, fps, settings)
    assert left(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png", ".txt", ""])
@pytest.mark.parametrize(
    "data",
    [b"", b"just text\n", b"#EXTM3U\nfile:///etc/hostname\n", b"\x89PNG\r\n\x1a\n", b"GIF89a"],
)
def test_reading_something_else(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"in{suffix}"
    path.write_bytes(data)
    with pytest.raises(OutputError):
        video.read_settings(path)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(OutputError, match="does not exist"):
            video.read_settings(path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_reading_pictures_without_settings(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"in{suffix}"
    Image.fromarray(noise()[0]).save(path)
    with pytest.raises(OutputError, match="holds no settings"):
        video.read_settings(path)


def test_reading_an_mp4_without_settings(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    video.write_video(path, flat(1), 8, {})
    path.write_bytes(path.read_bytes().replace(b"\xa9cmt", b"\xa9cpy"))
    with pytest.raises(OutputError, match="holds no settings"):
        video.read_settings(path)


@pytest.mark.parametrize("text", ["hello", "[1]", "7", "null", "[" * 100_000, "9" * 5000, '{"a":'])
def test_reading_comments_that_are_no_settings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "in.gif"
    Image.fromarray(noise()[0]).save(path, comment=text.encode())
    with pytest.raises(OutputError):
        video.read_settings(path)


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out"])
def test_reading_a_format_that_the_suffix_does_not_say(tmp_path: Path, name: str) -> None:
    video.write_video(tmp_path / name, flat(2), 8, SETTINGS)
    written = tmp_path / name
    for suffix in {".gif", ".webp", ".png", ".mp4"} - {written.suffix or ".png"}:
        other = tmp_path / f"other{suffix}"
        source = written if written.is_file() else written / "frame_0000.png"
        other.write_bytes(source.read_bytes())
        with pytest.raises(OutputError, match="damaged or holds something else"):
            video.read_settings(other)


@pytest.mark.parametrize("name", ["out.gif", "out"])
@pytest.mark.parametrize(("side", "readable"), [(0xFFFF, False), (0x2800, True)])
def test_no_pixel_of_a_huge_picture_is_made(
    tmp_path: Path, name: str, side: int, readable: bool
) -> None:
    video.write_video(tmp_path / name, flat(1), 8, SETTINGS)
    path = tmp_path / name if name == "out.gif" else tmp_path / name / "frame_0000.png"
    data = path.read_bytes()
    if name == "out.gif":
        path.write_bytes(data[:6] + 2 * side.to_bytes(2, "little") + data[10:])
    else:
        header = b"IHDR" + 2 * side.to_bytes(4, "big") + data[24:29]
        text, pixels = data[33:].split(b"IDAT", 1)
        # Whoever decodes these pixels fails.
        rest = text + b"IDAT" + b"\0" * len(pixels)
        path.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + rest)
    if readable:
        assert video.read_settings(path) == SETTINGS
        return
    with pytest.raises(OutputError, match="damaged or holds something else"):
        video.read_settings(path)


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out", "out.mp4"])
def test_reading_damaged_videos_fails_with_a_sentence(tmp_path: Path, name: str) -> None:
    video.write_video(tmp_path / name, flat(2, 16), 8, {"prompt": "a cat"})
    source = tmp_path / name if (tmp_path / name).is_file() else tmp_path / name / "frame_0000.png"
    good, rng = np.frombuffer(source.read_bytes(), np.uint8), np.random.default_rng(1)
    for _ in range(200):
        bad = good.copy()
        bad[rng.integers(0, len(bad), 4)] = rng.integers(0, 256, 4)
        source.write_bytes(bad.tobytes())
        with contextlib.suppress(OutputError):
            video.read_settings(source)


def test_files_of_older_versions_are_still_read() -> None:
    for path in sorted((Path(__file__).parent / "data" / "videos").iterdir()):
        assert video.read_settings(path) == {"prompt": "a red circle 猫", "seed": 7}, path


def test_a_folder_named_like_an_archive(tmp_path: Path) -> None:
    """imageio reads `a.zip/out.gif` as a member of an archive, unless it is given an open file."""
    (tmp_path / "a.zip").mkdir()
    for name in NAMES:
        video.write_video(tmp_path / "a.zip" / name, flat(2), 8, SETTINGS)
        assert video.read_settings(tmp_path / "a.zip" / name) == SETTINGS


def test_reading_truncated_videos(tmp_path: Path) -> None:
    for name in ("out.mp4", "out.gif", "out.webp"):
        path = tmp_path / name
        video.write_video(path, flat(2), 8, SETTINGS)
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(OutputError):
            video.read_settings(path)


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, hummingbird_edge.runtime.media.video\n"
        "print([name for name in ('av', 'PIL', 'imageio', 'torch') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


ENCODE = """
import sys
from pathlib import Path
import numpy as np
from hummingbird_edge.runtime.media.video import write_video
rows, columns = np.mgrid[:64, :64]
discs = [np.hypot(rows - 32, columns - 20 - 3 * t) < 14 for t in range(8)]
frames = np.stack([np.stack([200 * d, 30 * d, 20 * d], -1) for d in discs]).astype(np.uint8)
write_video(Path(sys.argv[1]), frames, 4, {})
"""


@pytest.mark.slow
def test_every_process_writes_the_same_file(tmp_path: Path) -> None:
    made = [tmp_path / f"{number}.mp4" for number in range(4)]
    for path in made:
        subprocess.run([sys.executable, "-c", ENCODE, str(path)], check=True)
    assert len({path.read_bytes() for path in made}) == 1


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="the system has no such")
def test_the_number_of_cores_changes_no_mp4(tmp_path: Path) -> None:
    program = (
        "import psutil, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from hummingbird_edge.runtime.media.video import write_video\n"
        "process = psutil.Process()\n"
        "process.cpu_affinity(process.cpu_affinity()[: int(sys.argv[1])])\n"
        "coarse = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), dtype=np.uint8)\n"
        "frames = coarse.repeat(10, 1).repeat(8, 2)\n"
        "write_video(Path(sys.argv[2]), frames, 8, {})"
    )
    found = set()
    for cores in (1, 2, 16):
        path = tmp_path / f"{cores}.mp4"
        subprocess.run([sys.executable, "-c", program, str(cores), str(path)], check=True)
        found.add(path.read_bytes())
    assert len(found) == 1
