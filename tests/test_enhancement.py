"""Fast mode: pixels are enlarged and interpolated after the model, and the file says so."""

import contextlib
import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hummingbird_edge.runtime.cli.enhancing import fast_size
from hummingbird_edge.runtime.engines.upscaler import OnnxUpscaler
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.media.decoded import MAX_FRAME_PIXELS, Decoded
from hummingbird_edge.runtime.media.enhancement import Enhancement, describe, records
from hummingbird_edge.runtime.media.interpolation import interpolate
from hummingbird_edge.runtime.media.unfinished import find_unfinished, list_unfinished
from hummingbird_edge.runtime.media.upscaling import upscale
from hummingbird_edge.runtime.media.video import read_frames, read_settings, write_video
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request
from tests.conftest import SHAPES, command_line

Command = Callable[..., "subprocess.CompletedProcess[str]"]
FREE = ["n", 3, "h", "w"]


def moving_square(count: int = 8, size: int = 64, speed: int = 6) -> NDArray[np.uint8]:
    """Return a red square of 16 pixels that moves right."""
    frames = np.full((count, size, size, 3), 30, np.uint8)
    for index in range(count):
        frames[index, 20:36, 4 + speed * index : 20 + speed * index] = (200, 50, 20)
    return frames


def centre(frame: NDArray[np.uint8]) -> float:
    """Return the column of the square's middle."""
    red = frame[..., 0].astype(int) - frame[..., 1] > 60
    return float(np.nonzero(red)[1].mean())


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    given: Sequence[Any] = FREE,
    made: Sequence[Any] = ("n", 3, "H", "W"),
    kind: int = TensorProto.FLOAT,
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Save a graph from `x` to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "upscaler",
        [helper.make_tensor_value_info("x", kind, list(given))],
        [helper.make_tensor_value_info("y", kind, list(made))],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def resize_graph(path: Path, scale: float = 2, **form: Any) -> Path:
    """Save a graph that enlarges by repeating pixels."""
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, scale, scale])
    node = helper.make_node(
        "Resize",
        ["x", "", "scales"],
        ["y"],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return save_graph(path, [node], weights=[scales], **form)


def shuffle_graph(path: Path) -> Path:
    """Save what super-resolution models end with: a convolution, then DepthToSpace."""
    kernel = np.zeros((12, 3, 1, 1), np.float32)
    for part in range(12):
        kernel[part, part % 3] = 1  # all four pixels are the one that was given
    weights = [onnx.numpy_helper.from_array(kernel, "kernel")]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["deep"]),
        helper.make_node("DepthToSpace", ["deep"], ["y"], blocksize=2, mode="DCR"),
    ]
    return save_graph(path, nodes, weights=weights)


def test_lanczos_keeps_a_ramp_and_overshoots_at_an_edge_only() -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8)[None, None, :, None], (2, 16, 1, 3))
    large = upscale(ramp, 64, 32)
    assert large.shape == (2, 32, 64, 3)
    truth = np.clip((np.arange(64) - 0.5) * 4, 0, 255)
    assert np.abs(large[:, :, 8:-8].astype(float) - truth[8:-8, None]).max() <= 1
    flat = np.full((1, 8, 8, 3), 77, np.uint8)
    assert (upscale(flat, 20, 12) == 77).all()
    back = upscale(large, 32, 16)
    assert np.abs(back[:, 4:-4, 4:-4].astype(int) - ramp[:, 4:-4, 4:-4]).max() <= 2


def test_another_shape_shows_the_middle_and_stretches_nothing() -> None:
    frames = np.zeros((1, 48, 64, 3), np.uint8)
    frames[:, 4:-4] = 200  # 64 x 40, in the shape of the new size
    assert (upscale(frames, 128, 80)[:, 8:-8] == 200).all()
    record = Enhancement(128, 80).record(frames.shape, 8)
    assert record["shown"] == [64, 40]


@pytest.mark.parametrize(("fps", "target"), [(4, 24), (8, 24), (8, 30), (7, 24), (8, 9)])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_interpolation_keeps_the_duration(fps: int, target: int, count: int) -> None:
    frames = moving_square(count)
    made = interpolate(frames, fps, target)
    assert len(made) == round(count * target / fps)
    for index, frame in enumerate(made):
        time, rest = divmod(index * fps, target)
        if not rest and time < count:  # a frame of the video is kept as it is
            assert np.array_equal(frame, frames[time])
    if (len(made) - 1) * fps >= (count - 1) * target:
        assert np.array_equal(made[-1], frames[-1])
    assert np.array_equal(made, interpolate(frames, fps, target))


def test_an_interpolated_square_is_between() -> None:
    frames = moving_square()
    made = interpolate(frames, 8, 24)
    for index, frame in enumerate(made[: 3 * 7]):
        before, after = centre(frames[index // 3]), centre(frames[index // 3 + 1])
        expected = before + (after - before) * (index % 3) / 3
        assert before <= centre(frame) <= after
        assert centre(frame) == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (16, 8), (39, 23), (33, 70)])
def test_sizes_that_the_filter_does_not_take(width: int, height: int) -> None:
    shape = (5, height, width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert interpolate(frames, 8, 24).shape == (15, height, width, 3)


def test_interpolation_to_fewer_frames_is_refused() -> None:
    for target in (8, 4):
        with pytest.raises(RequestError, match="the video has 8"):
            interpolate(moving_square(2), 8, target)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_an_onnx_model_enlarges(tmp_path: Path, kind: int) -> None:
    frames = moving_square(2)
    upscaler = OnnxUpscaler(resize_graph(tmp_path / "x2.onnx", kind=kind))
    upscaler.try_out(64, 64)
    assert np.array_equal(upscaler(frames[0]), frames[0].repeat(2, 0).repeat(2, 1))
    made = upscale(frames, 128, 128, upscaler)
    assert np.array_equal(made, frames.repeat(2, 1).repeat(2, 2))
    # Its factor is not the one that is wanted: Lanczos does the rest.
    assert upscale(frames, 192, 96, upscaler).shape == (2, 96, 192, 3)


def test_a_convolution_with_depth_to_space_enlarges(tmp_path: Path) -> None:
    frame = moving_square(1)[0]
    upscaler = OnnxUpscaler(shuffle_graph(tmp_path / "shuffle.onnx"))
    assert np.array_equal(upscaler(frame), frame.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_model_enlarges_on_the_device_that_was_requested(tmp_path: Path, kind: int) -> None:
    pytest.importorskip("openvino")
    frame = moving_square(1)[0]
    upscaler = OnnxUpscaler(resize_graph(tmp_path / "x2.onnx", kind=kind), "openvino")
    upscaler.try_out(64, 64)
    assert np.array_equal(upscaler(frame), frame.repeat(2, 0).repeat(2, 1))
    record = Enhancement(128, 128, upscaler).record((1, 64, 64, 3), 8)
    assert record["upscaler"] == {
        "name": "x2.onnx",
        "sha256": upscaler.sha256,
        "device": "openvino",
    }


@pytest.mark.slow
def test_a_device_that_is_not_there_is_named(hb: Command, tmp_path: Path) -> None:
    write_video(tmp_path / "a.webp", moving_square(1), 8, {"fps": 8})
    resize_graph(tmp_path / "x2.onnx")
    options = ("--enhance", "a.webp", "--upscaler", "x2.onnx", "--device")
    refused = hb("hb-run", *options, "openvino:GPU.7", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "openvino:GPU.7" in refused.stderr
    done = hb("hb-run", *options, "openvino", "-o", "b.webp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = hb("hb-run", "--info", "b.webp", cwd=tmp_path).stdout.splitlines()[-1]
    assert again.endswith("--upscaler PATH_TO_x2.onnx --device openvino")


def test_a_model_of_luma_enlarges(tmp_path: Path) -> None:
    graph = resize_graph(tmp_path / "y.onnx", given=[1, 1, 64, 64], made=[1, 1, 128, 128])
    upscaler, frame = OnnxUpscaler(graph), moving_square(1)[0]
    made = upscaler(frame)
    assert made.shape == (128, 128, 3)
    assert np.abs(made[44:68, 12:36].astype(int) - (200, 50, 20)).max() <= 4
    with pytest.raises(RequestError, match="takes frames of 64x64 alone, not 64x32"):
        upscaler.try_out(64, 32)


def wrong_graphs(folder: Path) -> dict[Path, str]:
    """Make files that are no upscalers; return what is said of each."""
    text, cut = folder / "text.onnx", folder / "cut.onnx"
    text.write_text("no graph", encoding="utf-8")
    cut.write_bytes(resize_graph(folder / "whole.onnx").read_bytes()[:60])
    gain = [helper.make_tensor("gain", TensorProto.FLOAT, [], [255.0])]
    zero = [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])]
    same = helper.make_node("Identity", ["x"], ["y"])
    outside = onnx.numpy_helper.from_array(np.ones(4, np.float32), "scales")
    onnx.external_data_helper.set_external_data(outside, "../../secret", 0, 16)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    resize = helper.make_node("Resize", ["x", "", "scales"], ["y"])
    custom = helper.make_node("Frob", ["x"], ["y"], domain="com.example")
    flat = {"given": ["n", 3], "made": ["n", 3]}
    bytes_ = {"kind": TensorProto.UINT8}
    multiply = helper.make_node("Mul", ["x", "gain"], ["y"])
    divide = helper.make_node("Div", ["x", "zero"], ["y"])

    def graph(name: str, nodes: Sequence[onnx.NodeProto], **form: Any) -> Path:
        return save_graph(folder / f"{name}.onnx", nodes, **form)

    return {
        folder / "missing.onnx": "there is no file",
        folder: "there is no file",
        text: "no ONNX graph|cannot load it",
        cut: "no ONNX graph|cannot load it",
        graph("flat", [same], **flat): r"shape \(n, 3\)",
        graph("bytes", [same], **bytes_): r"a tensor\(uint8\)",
        graph("four", [same], given=["n", 4, "h", "w"]): r"its input is \(n, 4, h, w\)",
        graph("batch", [same], given=[8, 3, "h", "w"]): r"its input is \(8, 3, h, w\)",
        graph("gain", [multiply], weights=gain): r"values up to 12\d",
        graph("zero", [divide], weights=zero): "NaN or infinite",
        resize_graph(folder / "small.onnx", 0.5): r"made \(1, 3, 32, 32\) of \(1, 3, 64, 64\)",
        graph("outside", [resize], weights=[outside]): "in other files, which are not read",
        graph("custom", [custom]): "cannot load it",
    }


def test_wrong_upscalers_are_refused_with_a_sentence(tmp_path: Path) -> None:
    for path, message in wrong_graphs(tmp_path).items():
        with pytest.raises(RequestError, match=message) as caught:
            OnnxUpscaler(path).try_out(64, 64)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a"])
@pytest.mark.parametrize("fps", [4, 7, 24])
def test_frames_and_rate_are_read_back(tmp_path: Path, name: str, fps: int) -> None:
    frames = moving_square()
    write_video(tmp_path / name, frames, fps, {"fps": fps})
    decoded, found = read_frames(tmp_path / name, fps)
    assert found == fps
    assert np.abs(decoded.astype(int) - frames).mean() < 0.5
    if name != "a":  # a folder says no time
        for recorded in (None, 0, 5, 10**9, "8", [8]):
            assert read_frames(tmp_path / name, recorded)[1] == fps


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a"])
def test_equal_frames_are_read_back_one_by_one(tmp_path: Path, name: str) -> None:
    """GIF and WebP keep them as one frame that is shown longer."""
    frames = moving_square(4)[[0, 0, 0, 1, 2, 2, 3, 3, 3, 3]]
    write_video(tmp_path / name, frames, 8, {})
    decoded, fps = read_frames(tmp_path / name, 8)
    assert (decoded.shape, fps) == (frames.shape, 8)
    assert np.abs(decoded.astype(int) - frames).mean() < 0.5


def test_frames_of_strangers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "hummingbird_edge.runtime.media.decoded"
    for name in ("a.mp4", "a.gif", "a.webp", "a"):
        write_video(tmp_path / name, moving_square(), 8, {})
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.MAX_BYTES", 64 * 64 * 3 * 4)
            with pytest.raises(OutputError, match="take more than"):
                read_frames(tmp_path / name)
            patch.setattr(f"{module}.MAX_FRAME_PIXELS", 64 * 64 - 1)
            with pytest.raises(OutputError, match="64x64 pixels"):
                read_frames(tmp_path / name)
    assert MAX_FRAME_PIXELS >= 7680 * 4320
    (tmp_path / "list.mp4").write_text("#EXTM3U\nfile:///etc/hostname\n", encoding="utf-8")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n", encoding="utf-8")
    (tmp_path / "gif.mp4").write_bytes((tmp_path / "a.gif").read_bytes())
    (tmp_path / "a" / "frame_0003.png").unlink()
    for name in ("list.mp4", "concat.mp4", "gif.mp4", "a", "none.mp4"):
        with pytest.raises(OutputError):
            read_frames(tmp_path / name)
    with pytest.raises(ValueError, match="no frames"):
        Decoded.of(iter(()))
    dots = np.zeros((1, 1, 3), np.uint8)
    for seconds in (3600.0, 1e300, float("inf")):
        with pytest.raises((ValueError, OverflowError)):
            Decoded.of([(dots, seconds)]).at(240)


def test_damaged_videos_fail_with_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("a.mp4", "a.gif", "a.webp"):
        write_video(tmp_path / name, moving_square(3), 8, {})
        good = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
        for _ in range(60):
            bad = good.copy()
            bad[rng.integers(0, len(bad), 4)] = rng.integers(0, 256, 4)
            (tmp_path / name).write_bytes(bad.tobytes())
            with contextlib.suppress(OutputError):
                assert read_frames(tmp_path / name)[0].size


def test_a_result_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(RequestError, match="take more than 4 GiB"):
        Enhancement(16_384, 16_384).apply(moving_square(), 8)
    for size in ((0, 64), (64, 20_000)):
        with pytest.raises(RequestError, match="give 1 to 16384"):
            Enhancement(*size)
    with pytest.raises(RequestError, match="fps is 500: give 1 to 240"):
        Enhancement(64, 64, fps=500)


def test_records_of_strangers_are_described() -> None:
    strangers: tuple[dict[str, object], ...] = (
        {},
        {"from": 7, "upscaler": {}, "interpolate": []},
        {"from": {"width": []}},
    )
    for record in strangers:
        assert describe(record)
    found: tuple[object, ...] = (None, 7, "text", [7, None], {"a": 1})
    for strange in found:
        assert records({"enhancements": strange}) == []


def test_the_model_knows_32_frames_a_second() -> None:
    manifest = TextToVideo.from_bundle(device="cpu").manifest
    assert Request.for_model(manifest, "a cat", 7, fps=32).fps == 32
    with pytest.raises(RequestError, match=r"knows 32 .* --interpolate motion"):
        Request.for_model(manifest, "a cat", 7, fps=33)


@pytest.mark.parametrize(
    ("size", "divisor", "generated"),
    [
        ((512, 512), 64, (256, 256)),
        ((512, 384), 64, (256, 192)),
        ((512, 320), 64, (256, 128)),
        ((320, 512), 64, (128, 256)),
        ((1024, 640), 64, (512, 320)),
        ((64, 64), 16, (32, 32)),
        ((128, 128), 64, (64, 64)),
        ((100, 77), 16, (48, 32)),
    ],
)
def test_fast_generates_a_quarter_of_the_pixels_at_most(
    size: tuple[int, int], divisor: int, generated: tuple[int, int]
) -> None:
    assert fast_size(size, divisor) == generated
    assert 4 * generated[0] * generated[1] <= size[0] * size[1]
    with pytest.raises(RequestError, match="nothing smaller to generate"):
        fast_size((divisor, divisor), divisor)


@pytest.mark.slow
def test_python_enhances_a_video(tmp_path: Path) -> None:
    pipeline = TextToVideo.from_bundle(SHAPES, device="cpu")
    video = pipeline("a red circle moving right", width=32, height=32)
    graph = resize_graph(tmp_path / "x2.onnx")
    large = video.enhanced(width=96, height=64, upscaler=graph, fps=12)
    assert large.frames.shape == (24, 64, 96, 3)
    assert (large.fps, large.request.fps, large.settings["width"]) == (12, 4, 32)
    assert "enhancements" not in video.settings
    again = large.enhanced(width=48).save(tmp_path / "x.webp")
    (first, second) = records(read_settings(again))
    assert first["upscaler"]["name"] == "x2.onnx"
    assert first["shown"] == [32, 21.33]
    assert (second["width"], second["height"], second["from"]["fps"]) == (48, 64, 12)
    assert read_frames(again, 12)[1] == 12


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--interpolate", "motion", "--fps", "12")])
def test_fast_generates_half_and_says_so(hb: Command, tmp_path: Path, more: Sequence[str]) -> None:
    model = ("--bundle", SHAPES, "--device", "cpu")
    options = ("--fast", *model, "--steps", "2", "--size", "96x64", *more)
    done = hb("hb-run", "a red circle moving right", "-o", "a.webp", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "frames of 96x64" in done.stderr
    assert "note: --fast generates 48x32, then enlarges that to 96x64\n" in done.stderr
    fps, settings = 12 if more else 4, read_settings(tmp_path / "a.webp")
    decoded, found = read_frames(tmp_path / "a.webp", fps)
    assert (decoded.shape, found) == ((2 * fps, 64, 96, 3), fps)
    assert (settings["width"], settings["height"], settings["fps"]) == (48, 32, 4)
    told = hb("hb-run", "--info", "a.webp", cwd=tmp_path)
    *_, enhanced, again = told.stdout.splitlines()
    assert enhanced.startswith("enhanced: 8 frames of 48x32 at 4 a second, resized to 96x64")
    assert ("interpolated to 12 a second" in enhanced) == bool(more)
    told_words = shlex.split(again.removeprefix("again: "))
    words = [SHAPES if word.startswith("PATH_TO_") else word for word in told_words]
    assert words[:4] == ["hb-run", "--fast", "--size", "96x64"]
    before = (tmp_path / "a.webp").read_bytes()
    done = hb(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.webp").read_bytes() == before
    assert (tmp_path / "a-again.webp").read_bytes() == before


@pytest.mark.slow
def test_fast_goes_on_after_an_interruption(
    hb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUMMINGBIRD_STATE", str(tmp_path / "state"))
    upscaler = resize_graph(tmp_path / "x2.onnx")
    options = ("--fast", "--upscaler", "x2.onnx", "--interpolate", "motion", "--device", "cpu")
    video = ("a blue star spinning", "--steps", "30", *options, "-o", "a.webp")
    whole = hb("hb-run", *video, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    truth = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").unlink()
    started = subprocess.Popen(
        command_line("hb-run", *video), cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    while not any(each.file.taken for each in list_unfinished()):
        assert started.poll() is None
    started.kill()
    started.wait()
    assert find_unfinished()[1].settings["width"] == 32
    refused = hb("hb-run", "--resume", "--fast", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "leave --fast out" in refused.stderr
    content = upscaler.read_bytes()
    resize_graph(upscaler, 4)
    changed = hb("hb-run", "--resume", cwd=tmp_path)
    assert "has changed since the video was begun" in changed.stderr
    upscaler.write_bytes(content)
    resumed = hb("hb-run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "a.webp").read_bytes() == truth


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a"])
def test_finished_videos_are_enhanced(hb: Command, tmp_path: Path, name: str) -> None:
    settings = {"prompt": "a red square", "fps": 8, "width": 64, "height": 64, "frames": 8}
    settings |= {"steps": 2, "guidance": 1.5, "seed": 7}
    write_video(tmp_path / name, moving_square(), 8, settings)
    resize_graph(tmp_path / "x2.onnx")
    options = ("--upscaler", "x2.onnx", "--interpolate", "motion", "--fps", "24", "--json")
    done = hb("hb-run", "--enhance", name, *options, "-o", "b.webp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["path"] == "b.webp"
    assert told["settings"].items() >= settings.items()
    decoded, fps = read_frames(tmp_path / "b.webp", 24)
    assert (decoded.shape, fps) == ((24, 128, 128, 3), 24)
    info = hb("hb-run", "--info", "b.webp", cwd=tmp_path)
    assert info.returncode == 0, info.stderr
    *_, enhanced, again = info.stdout.splitlines()
    assert "8 frames of 64x64 at 8 a second, enlarged by x2.onnx" in enhanced
    first, second = again.removeprefix("again: ").split(" && ")
    step = "step-1" + Path(name).suffix
    assert f"--output {step}" in first
    assert f"--enhance {step} --size 128x128 --upscaler PATH_TO_x2.onnx" in second


@pytest.mark.slow
def test_a_video_of_another_program_is_enhanced(hb: Command, tmp_path: Path) -> None:
    write_video(tmp_path / "a.gif", moving_square(), 8, {})
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data.replace(b"{}", b"hi"))
    done = hb("hb-run", "--enhance", "a.gif", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "out.mp4\n")
    assert read_frames(tmp_path / "out.mp4")[0].shape == (8, 128, 128, 3)
    info = hb("hb-run", "--info", "out.mp4", cwd=tmp_path)
    assert info.returncode == 0, info.stderr
    command = "again: hb-run --output out-again.mp4 --enhance PATH_TO_THE_VIDEO.gif --size 128x128"
    assert info.stdout.splitlines()[-1] == command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--enhance", "a.mp4", "--fps", "24"), "by interpolation alone"),
        (("--enhance", "a.mp4", "--interpolate", "motion", "--fps", "8"), "starts from 8"),
        (("--enhance", "a.mp4", "--interpolate", "frob"), "choose none or motion"),
        (("--enhance", "a.mp4", "--fast"), "leave it out with --enhance"),
        (("--enhance", "a.mp4", "--steps", "4"), "--steps has no effect"),
        (("a cat", "--enhance", "a.mp4"), "PROMPT has no effect"),
        (("--enhance", "a.mp4", "-o", "a.mp4"), "is the video itself"),
        (("--enhance", "a.mp4", "--size", "33x33", "-o", "b.mp4"), "H.264 needs even sizes"),
        (("--enhance", "a.mp4", "--size", "0x64"), "width is 0"),
        (("--enhance", "a.mp4", "--upscaler", "a.mp4"), "no upscaler"),
        (("--enhance", "a.mp4", "--device", "cpu"), "give --upscaler FILE"),
        (("--enhance", "a.mp4", "--precision", "fp16"), "--precision has no effect"),
        (("--enhance", "a.mp4", "--low-power"), "--low-power has no effect"),
        (
            ("--enhance", "a.mp4", "--upscaler", "x.onnx", "--device", "vae=cpu"),
            "the name of one device",
        ),
        (("--enhance", "a.mp4", "--info", "a.mp4"), "separate commands"),
        (("a cat", "--upscaler", "x.onnx"), "add --fast"),
        (("a cat", "--fast", "--upscaler", "x.onnx"), "there is no file x.onnx"),
        (("a cat", "--fast", "--size", "8x8"), "leave it out"),
        (("a cat", "--fast", "--size", "65x65"), "H.264 needs even sizes"),
        (("a cat", "--fps", "60"), "knows 32"),
        (("a cat", "--fast", "--fps", "60"), "knows 32"),
        (("a cat", "--fps", "8", "--interpolate", "motion"), "starts from 8"),
    ],
)
def test_wrong_input_is_one_sentence(
    hb: Command, tmp_path: Path, options: Sequence[str], message: str
) -> None:
    write_video(tmp_path / "a.mp4", moving_square(2), 8, {"fps": 8})
    done = hb("hb-run", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("a.mp4", "x2.onnx")] == []
