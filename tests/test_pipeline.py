"""Prompt to frames: the recorded videos, on every engine, and without the export toolchain."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device, candidates
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.errors import (
    DeviceError,
    GenerationError,
    HummingbirdWarning,
    RequestError,
)
from hummingbird_edge.runtime.media.video import read_settings
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.plan import Placement, Reason
from hummingbird_edge.runtime.placement.planner import Plan
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Progress, Video, check_frames, check_latents, to_pixels

GOLDEN = Path(__file__).parent / "data" / "nano_07b_golden.npz"

Golden = dict[str, NDArray[Any]]

# A process in which the toolchain cannot be imported makes both recorded videos.
WITHOUT_TOOLCHAIN = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import numpy as np
from hummingbird_edge.runtime.pipeline import TextToVideo

bundle, golden, out = sys.argv[1:]
golden, pipeline = np.load(golden), TextToVideo.from_bundle(bundle, device="cpu")
made = {}
for case in ("pipe0", "pipe1"):
    noise = golden[f"{case}_initial_noise"]
    video = pipeline(
        str(golden[f"{case}_prompt"]),
        frames=noise.shape[2],
        height=noise.shape[3] * 8,
        width=noise.shape[4] * 8,
        steps=int(golden[f"{case}_steps"]),
        guidance=float(golden[f"{case}_guidance"]),
        fps=int(golden[f"{case}_fps"]),
        initial_noise=noise,
        step_noise=golden[f"{case}_step_noise"],
    )
    made[f"{case}_latents"], made[f"{case}_frames"] = video.latents, video.frames
assert not {"torch", "onnx", "onnxscript", "hummingbird_edge.export"} & set(sys.modules)
np.savez(out, **made)
"""


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> TextToVideo:
    return TextToVideo.from_bundle(nano_bundle, device="cpu")


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> TextToVideo:
    return TextToVideo.from_bundle(tiny_bundle, device="cpu")


def assert_recorded(
    golden: Golden, case: str, latents: NDArray[np.float32], frames: NDArray[np.uint8]
) -> None:
    np.testing.assert_allclose(latents, golden[f"{case}_latents"], rtol=0, atol=2e-3)
    video = golden[f"{case}_video"][0].transpose(1, 2, 3, 0)
    expected = np.clip((video + 1) * 127.5, 0, 255)
    assert frames.shape == expected.shape
    assert frames.dtype == np.uint8
    assert np.abs(frames.astype(np.float64) - expected).max() <= 1


def test_recorded_videos_without_the_toolchain(
    nano_bundle: Path, golden: Golden, tmp_path: Path
) -> None:
    out = tmp_path / "made.npz"
    arguments = [str(path) for path in (nano_bundle, GOLDEN, out)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TOOLCHAIN, *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(out) as made:
        for case in ("pipe0", "pipe1"):
            assert_recorded(golden, case, made[f"{case}_latents"], made[f"{case}_frames"])


@pytest.mark.parametrize("case", ["pipe0", "pipe1"])
def test_recorded_videos_in_openvino(nano_bundle: Path, golden: Golden, case: str) -> None:
    pytest.importorskip("openvino")
    noise = golden[f"{case}_initial_noise"]
    pipeline = TextToVideo.from_bundle(nano_bundle, device="openvino", precision="fp32")
    video = pipeline(
        str(golden[f"{case}_prompt"]),
        frames=noise.shape[2],
        height=noise.shape[3] * 8,
        width=noise.shape[4] * 8,
        steps=int(golden[f"{case}_steps"]),
        guidance=float(golden[f"{case}_guidance"]),
        fps=int(golden[f"{case}_fps"]),
        initial_noise=noise,
        step_noise=golden[f"{case}_step_noise"],
    )
    assert_recorded(golden, case, video.latents, video.frames)
    assert {p.backend.device.name for p in pipeline.placements.values()} == {"openvino"}


def make(pipeline: TextToVideo, seed: int = 7, **asked: Any) -> Video:
    return pipeline("a red cat", seed=seed, **{"frames": 2, "width": 32, "height": 32, **asked})


def test_a_seed_fixes_the_video(nano_bundle: Path, pipeline: TextToVideo) -> None:
    first, again = make(pipeline, steps=2), make(pipeline, steps=2)
    elsewhere = make(TextToVideo.from_bundle(nano_bundle, device="cpu"), steps=2)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.frames, elsewhere.frames)
    assert (make(pipeline, seed=8, steps=2).frames != first.frames).mean() > 0.5


@pytest.mark.parametrize(
    "asked", [{"guidance": 1.0}, {"fps": 24}, {"prompt": "a blue dog"}, {"steps": 3}]
)
def test_everything_asked_for_reaches_the_model(
    pipeline: TextToVideo, asked: dict[str, Any]
) -> None:
    base: dict[str, Any] = {
        "prompt": "a red cat",
        "frames": 2,
        "width": 32,
        "height": 32,
        "steps": 2,
    }
    one, other = pipeline(**base), pipeline(**{**base, **asked})
    assert np.abs(one.latents - other.latents).max() > 1e-3


def test_the_seeds_noise_is_what_the_sampler_gets(pipeline: TextToVideo) -> None:
    shape = (1, 4, 2, 4, 4)
    step_noise = np.stack([gaussian_noise(shape, 5, draw) for draw in (1, 2)])
    given = make(
        pipeline, steps=2, initial_noise=gaussian_noise(shape, 5, 0), step_noise=step_noise
    )
    np.testing.assert_array_equal(given.frames, make(pipeline, seed=5, steps=2).frames)


def test_one_frame_and_one_step_make_a_video(pipeline: TextToVideo) -> None:
    video = make(pipeline, frames=1, width=16, height=48, steps=1)
    assert video.frames.shape == (1, 48, 16, 3)
    assert video.latents.shape == (1, 4, 1, 6, 2)


def test_many_frames_are_decoded_in_parts(pipeline: TextToVideo) -> None:
    """Parts of a clip decode like the whole: the decoder sees each frame alone."""
    request = Request.for_model(
        pipeline.bundle.manifest, "a cat", 7, frames=3, width=512, height=192, steps=1
    )
    parts = list(pipeline.generate(request))
    assert [(p.index, p.count) for p in parts if p.stage == "vae_decoder"] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    video = parts[-1].video
    assert video is not None
    decoder = open_session(pipeline.bundle.graph("vae_decoder"), Backend.parse("cpu"))
    z = video.latents[0].transpose(1, 0, 2, 3) / np.float32(0.18215)
    pixels = decoder.run({"latent_sample": np.ascontiguousarray(z)}).transpose(0, 2, 3, 1)
    assert np.abs(np.clip((pixels + 1) * 127.5, 0, 255) - video.frames).max() <= 1


def test_the_generator_tells_of_every_part(pipeline: TextToVideo) -> None:
    request = Request.for_model(
        pipeline.bundle.manifest, "a cat", 7, frames=2, width=32, height=32, steps=3
    )
    parts = list(pipeline.generate(request))
    assert [(p.stage, p.index, p.count) for p in parts] == [
        ("plan", 1, 1),
        ("text_encoder", 1, 1),
        ("unet", 1, 3),
        ("unet", 2, 3),
        ("unet", 3, 3),
        ("vae_decoder", 2, 2),
        ("done", 1, 1),
    ]
    assert parts[0].promise is not None
    assert parts[0].promise.stages["unet"].parts == 3
    assert all(part.seconds > 0 for part in parts[1:])
    denoised = [part.denoised for part in parts if part.stage == "unet"]
    assert all(d is not None and d.shape == (1, 4, 2, 4, 4) for d in denoised)
    video = parts[-1].video
    assert video is not None
    assert [part.video for part in parts[:-1]] == [None] * 6
    np.testing.assert_array_equal(video.latents, denoised[-1])
    assert len(video.timings.unet_step_s) == 3
    assert video.timings.total_s >= sum(video.timings.unet_step_s)


def test_a_video_tells_how_it_was_made(
    nano_bundle: Path, pipeline: TextToVideo, tmp_path: Path
) -> None:
    video = make(pipeline, steps=1)
    assert video.settings == {
        "prompt": "a red cat",
        "frames": 2,
        "width": 32,
        "height": 32,
        "steps": 1,
        "guidance": 7.5,
        "fps": 8,
        "seed": 7,
        "decoder": "full",
        "model": "nano_07b_merged_all",
        "bundle_sha256": Bundle.open(nano_bundle).digest,
        "devices": {"text_encoder": "cpu", "unet": "cpu", "vae_decoder": "cpu"},
        "precisions": {"text_encoder": "fp32", "unet": "fp32", "vae_decoder": "fp32"},
        "version": version("hummingbird-edge"),
    }
    assert read_settings(video.save(tmp_path / "out.webp")) == video.settings


class Stop(Exception):
    """What a caller raises to stop."""


def test_on_step_hears_every_step_and_can_stop(pipeline: TextToVideo) -> None:
    heard: list[int] = []

    def listen(progress: Progress) -> None:
        heard.append(progress.index)
        if progress.count == 50 and progress.index == 2:
            raise Stop

    make(pipeline, steps=3, on_step=listen)
    assert heard == [1, 2, 3]
    with pytest.raises(Stop):
        make(pipeline, steps=50, on_step=listen)
    assert heard == [1, 2, 3, 1, 2]
    # Stopping leaves the pipeline as it was.
    assert make(pipeline, steps=1).frames.shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("initial_noise", (1, 4, 2, 4, 5)),
        ("initial_noise", (4, 2, 4, 4)),
        ("step_noise", (1, 4, 2, 4, 4)),
        ("step_noise", (3, 1, 4, 2, 4, 4)),
    ],
)
def test_noise_of_another_shape_is_refused(
    pipeline: TextToVideo, name: str, shape: tuple[int, ...]
) -> None:
    asked: dict[str, Any] = {name: np.zeros(shape, np.float32)}
    with pytest.raises(RequestError, match=f"{name} has shape .*{shape[-1]}.*, this video needs"):
        make(pipeline, steps=2, **asked)


@pytest.mark.parametrize("name", ["initial_noise", "step_noise"])
@pytest.mark.parametrize("fault", [np.nan, np.inf, "float64"])
def test_noise_must_be_finite_float32(pipeline: TextToVideo, name: str, fault: Any) -> None:
    shape = (1, 4, 2, 4, 4) if name == "initial_noise" else (2, 1, 4, 2, 4, 4)
    noise = np.zeros(shape, np.float32)
    if fault == "float64":
        noise = noise.astype(fault)
    else:
        noise.flat[3] = fault
    asked: dict[str, Any] = {name: noise}
    with pytest.raises(RequestError, match=f"{name} must be finite float32"):
        make(pipeline, steps=2, **asked)


def test_guidance_by_a_second_pass(tiny: TextToVideo) -> None:
    """A model without a guidance embedding mixes what it says with and without the prompt."""
    shape = (1, 4, 3, 4, 8)
    noise = gaussian_noise(shape, 7, 0)
    video = tiny("a red cat", steps=1, seed=7)
    sessions = {
        stage: open_session(tiny.bundle.graph(stage), Backend.parse("cpu"))
        for stage in ("text_encoder", "unet")
    }

    def predict(prompt: str) -> NDArray[np.float32]:
        ids = tiny.tokenizer(prompt).ids[None, :]
        return sessions["unet"].run(
            {
                "sample": noise,
                "timestep": np.array([999]),
                "encoder_hidden_states": sessions["text_encoder"].run({"input_ids": ids}),
                "fps": np.array([5]),
            }
        )

    with_prompt, without = predict("a red cat"), predict("")
    assert np.abs(with_prompt - without).max() > 1e-3
    output = without + 4 * (with_prompt - without)
    expected = tiny.bundle.manifest.sampler.denoise(noise, output, 999)
    np.testing.assert_allclose(video.latents, expected, rtol=0, atol=1e-4)


def test_defaults_are_the_bundles(tiny: TextToVideo) -> None:
    video = tiny("a red cat")
    assert video.frames.shape == (3, 8, 16, 3)
    assert (video.request.steps, video.request.guidance, video.request.fps) == (2, 4, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_must_be_finite(value: float) -> None:
    latents = np.zeros((1, 4, 2, 3, 3), np.float32)
    check_latents(latents, 1)
    latents[0, 0, 0, 0, :2] = value
    with pytest.raises(GenerationError, match="step 3 gave 2 latent values of 72 that are NaN"):
        check_latents(latents, 3)


def gradient() -> NDArray[np.float32]:
    ramp = np.linspace(-1, 1, 8, dtype=np.float32)
    return np.broadcast_to(ramp, (2, 3, 8, 8)).copy()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda frames: frames * np.float32(np.nan), "NaN or infinite"),
        (lambda frames: np.where(frames > 0.9, np.inf, frames), "NaN or infinite"),
        (lambda frames: np.where(frames < -0.9, -np.inf, frames), "NaN or infinite"),
        (
            lambda frames: np.where(np.arange(frames.size) == 200, np.nan, frames.ravel()).reshape(
                frames.shape
            ),
            "NaN or infinite",
        ),
        (lambda frames: np.full_like(frames, -1), "black or constant"),
        (lambda frames: np.full_like(frames, 0.3), "black or constant"),
        (lambda frames: frames * 0.005, "black or constant"),
        (lambda frames: -2 - np.abs(frames), "black or constant"),  # black once clipped
    ],
)
def test_frames_must_show_something(
    damage: Callable[[NDArray[np.float32]], NDArray[np.float32]], message: str
) -> None:
    check_frames(gradient())
    with pytest.raises(GenerationError, match=message):
        check_frames(damage(gradient()).astype(np.float32))


def test_a_flat_clip_of_two_colours_is_a_picture() -> None:
    frames = np.full((2, 3, 8, 8), -1, np.float32)
    frames[1] = 1
    check_frames(frames)


def test_pixels_are_the_nearest_of_256_levels() -> None:
    frames = np.random.default_rng(0).normal(0, 0.8, (3, 3, 6, 10)).astype(np.float32)
    levels = np.clip(np.rint((frames + 1) * 127.5), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(to_pixels(frames), levels.transpose(0, 2, 3, 1))


def test_auto_takes_what_is_installed(nano_bundle: Path) -> None:
    names = [device.name for device in candidates("auto")]
    assert names[-1] == "cpu"
    pipeline = TextToVideo.from_bundle(nano_bundle)
    make(pipeline, steps=1)
    assert set(pipeline.placements) == {"text_encoder", "unet", "vae_decoder"}
    assert {p.backend.device.name for p in pipeline.placements.values()} <= set(names)


def test_an_openvino_device_that_is_not_there_is_refused(nano_bundle: Path) -> None:
    pytest.importorskip("openvino")
    pipeline = TextToVideo.from_bundle(nano_bundle, device="openvino:GPU.7")
    with pytest.raises(DeviceError, match=r"openvino:GPU.7 was requested and OpenVINO has .*CPU"):
        make(pipeline, steps=1)
    request = Request.for_model(pipeline.manifest, "a cat", 7)
    with pytest.raises(DeviceError, match=r"or choose --device openvino:CPU"):
        next(pipeline.generate(request))  # before anything is promised


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    graph = tmp_path / "unet" / "model.onnx"
    graph.parent.mkdir()
    graph.write_bytes(b"no graph")
    with pytest.raises(
        DeviceError, match=r"^cpu cannot load unet/model\.onnx \(.*build the bundle"
    ):
        open_session(graph, Backend.parse("cpu"))


def test_an_input_of_another_shape_is_our_error(pipeline: TextToVideo) -> None:
    session = open_session(pipeline.bundle.graph("vae_decoder"), Backend.parse("cpu"))
    with pytest.raises(DeviceError, match=r"^cpu failed while computing \("):
        session.run({"latent_sample": np.zeros((1, 5, 4, 4), np.float32)})


def test_a_prompt_that_is_cut_warns(pipeline: TextToVideo) -> None:
    with pytest.warns(HummingbirdWarning, match="the prompt has 102 tokens, the model reads 77"):
        pipeline("cat " * 100, frames=1, width=16, height=16, steps=1)


def test_a_device_that_is_passed_over_is_told(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To whoever listens, and once for all videos."""
    heard: list[str] = []
    pipeline = TextToVideo.from_bundle(nano_bundle, notify=heard.append)
    lacking = Backend(Device("openvino:GPU.7", "openvino", "GPU.7"))
    sizes = {"frames": 1, "height": 2, "width": 2}
    unet = Placement("unet", StageKind.UNET, lacking, sizes, Reason.FIRST)
    plan = pipeline.stages.planner.plan

    def with_a_lacking_device(*args: Any) -> Plan:
        found = plan(*args)
        placements = [unet, *found.placements["unet"]]
        return replace(found, placements={**found.placements, "unet": placements})

    monkeypatch.setattr(pipeline.stages.planner, "plan", with_a_lacking_device)
    for _ in range(2):
        pipeline("a cat", frames=1, width=16, height=16, steps=1)
    assert len([text for text in heard if "openvino:GPU.7" in text]) == 1


def without_a_map(bundle: Path, out: Path) -> Path:
    """Copy a bundle and take what previews are made by out of its manifest."""
    shutil.copytree(bundle, out)
    manifest = out / "hummingbird.json"
    entries = json.loads(manifest.read_text(encoding="utf-8"))
    del entries["stages"]["vae_decoder"]["latent_to_rgb"], entries["stages"]["tiny_decoder"]
    manifest.write_text(json.dumps(entries), encoding="utf-8")
    return out


def test_previews_that_cannot_be_made_are_refused_before_work(
    nano_bundle: Path, tmp_path: Path, hb: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    bundle = without_a_map(nano_bundle, tmp_path / "bare")
    done = hb("hb-run", "a cat", "--bundle", bundle, "--preview", "-o", tmp_path / "out.webp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no tiny decoder and no map for previews" in done.stderr


def test_engines_are_quieted_and_the_host_is_left_alone() -> None:
    program = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "from hummingbird_edge.runtime.devices import packages\n"
        "packages.import_onnxruntime(), packages.import_openvino()\n"
        "assert dict(os.environ) == before\n"
        "assert sys.modules.get('openvino_telemetry', 0) is not None\n"
    )
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
