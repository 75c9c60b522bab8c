"""The tiny decoder: the recorded frames, in a bundle of its own stage, and previews without it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.models.config import PRESETS, ModelConfig, VAEConfig
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.export.preview import latent_to_rgb
from hummingbird_edge.export.weights import RandomWeights, WithTinyDecoder
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.errors import CheckpointError, RequestError
from hummingbird_edge.runtime.media.preview import linear_preview
from hummingbird_edge.runtime.media.video import read_settings
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.planner import Planner

DATA = Path(__file__).parent / "data"
TINY = DATA / "taesd_layout_decoder.safetensors"
SMALL = ("--size", "32x32", "--frames", "3", "--steps", "2", "--device", "cpu")

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "taesd_layout_golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def bundle(nano_bundle: Path) -> Path:
    """Return a bundle whose VAE is as coarse as the tiny decoder is."""
    return nano_bundle


def test_the_module_gives_the_recorded_frames(golden: dict[str, np.ndarray]) -> None:
    weights = WithTinyDecoder(RandomWeights(), read_checkpoint(TINY))
    module = weights.load("tiny_decoder", PRESETS["hummingbird-0.7b"])
    assert sum(weight.numel() for weight in module.parameters()) == 1_222_531
    with torch.no_grad():
        found = module(torch.from_numpy(golden["latent"])).numpy()
    np.testing.assert_allclose(found, golden["rgb"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ["cpu", "openvino"])
def test_the_graph_gives_the_recorded_frames(
    bundle: Path, golden: dict[str, np.ndarray], engine: str
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    session = open_session(bundle / "tiny_decoder" / "model.onnx", Backend.parse(engine))
    # As the VAE's decoder, it takes latents without their scaling.
    z = golden["latent"] / np.float32(Bundle.open(bundle).manifest.model.scaling_factor)
    found = (session.run({"latent_sample": z}) + 1) / 2
    np.testing.assert_allclose(found, golden["rgb"], rtol=0, atol=1e-5)


def test_a_video_and_its_previews_by_the_tiny_decoder(
    hb: Command, bundle: Path, tmp_path: Path
) -> None:
    run = ("hb-run", "a cat", "--bundle", bundle, *SMALL, "-o", tmp_path / "out.webp")
    done = hb(*run, "--decoder", "tiny", "--preview", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert "tiny_decoder" in made["stages"]
    assert "vae_decoder" not in made["stages"]
    assert made["settings"]["decoder"] == "tiny"
    assert made["timings"]["vae_decoder_s"] > 0
    for step in (1, 2):
        assert f"preview: {tmp_path / f'out-step-{step}.webp'}" in done.stderr
        settings = read_settings(tmp_path / f"out-step-{step}.webp")
        assert settings["preview_of_step"] == step
    again = hb("hb-run", "--info", tmp_path / "out.webp")
    assert "--decoder tiny" in again.stdout


def test_the_last_preview_is_the_video(bundle: Path) -> None:
    pipeline = TextToVideo.from_bundle(bundle, device="cpu")
    video = pipeline("a cat", frames=3, width=32, height=32, steps=2, decoder="tiny")
    np.testing.assert_array_equal(pipeline.preview(video.latents), video.frames)


def test_without_a_tiny_decoder_previews_are_a_linear_map() -> None:
    pipeline = TextToVideo.from_bundle(BUILTIN, device="cpu")
    video = pipeline(pipeline.bundle.manifest.prompts[0], seed=7)
    shown = pipeline.preview(video.latents)
    frames, height, width, _ = video.frames.shape
    assert shown.shape == (frames, height // 2, width // 2, 3)
    truth = video.frames.reshape(frames, height // 2, 2, width // 2, 2, 3).mean((2, 4))
    # This VAE is small and bent: hues are off, but what is where can be seen.
    contrast = [
        np.linalg.norm(x - np.median(x, (0, 1, 2)), axis=-1).ravel()
        for x in (shown.astype(float), truth)
    ]
    assert np.corrcoef(*contrast)[0, 1] > 0.7


def test_the_linear_map_inverts_a_linear_encoder() -> None:
    vae = VAE(VAEConfig(width=8, multipliers=(1, 1), res_blocks=1, groups=2, scaling_factor=0.5))

    def encode(frames: torch.Tensor) -> torch.Tensor:
        small = functional.avg_pool2d(frames, 2)
        mean = torch.cat([4 * small - 1, 0 * small[:, :1]], dim=1)
        return torch.cat([mean, mean], dim=1)

    vae.encode = encode  # type: ignore[method-assign]
    matrix = latent_to_rgb(vae)
    expected = np.vstack([0.5 * np.eye(3), np.zeros((1, 3)), np.full((1, 3), 0.25)])
    np.testing.assert_allclose(matrix, expected, atol=1e-5)
    z = np.zeros((1, 4, 2, 3, 5), np.float32)
    shown = linear_preview(z, matrix, 2)
    assert shown.shape == (2, 6, 10, 3)
    assert (shown == round(1.25 * 127.5)).all()


@pytest.mark.slow
def test_what_is_not_there_is_refused(hb: Command, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out.mp4")
    for arguments, message in (
        (("--decoder", "tiny"), f"{Bundle.open(BUILTIN).manifest.name} has no tiny decoder"),
        (("--decoder", "abacus"), "the decoder is 'abacus': choose full or tiny"),
    ):
        done = hb("hb-run", "a red star", *out, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
    config = ModelConfig(vae=VAEConfig(multipliers=(1, 2)))
    with pytest.raises(RequestError, match="this model makes 4 of 1/2"):
        WithTinyDecoder(RandomWeights(), read_checkpoint(TINY)).load("tiny_decoder", config)
    nano = read_checkpoint(DATA / "nano_07b_merged_all.pt")
    with pytest.raises(CheckpointError, match="do not fit TinyDecoder"):
        WithTinyDecoder(RandomWeights(), nano).load("tiny_decoder", PRESETS["hummingbird-0.7b"])


def test_a_precision_that_the_tiny_decoder_lacks_is_for_the_others(bundle: Path) -> None:
    """`--precision int8 --decoder tiny`: no tiny decoder is quantized, and it is soon done."""
    known = Bundle.open(bundle)
    planner = Planner(known, "cpu", "vae=fp32")
    planner._precisions["vae_decoder"] = "int8"
    sizes = {"frames": 1, "height": 4, "width": 4}
    plan = planner.plan({"tiny_decoder": sizes})
    assert [str(p.backend) for p in plan.placements["tiny_decoder"]] == ["cpu fp32"]
    assert "cannot compute tiny_decoder in int8" in plan.passed_over["tiny_decoder"][0]


def test_previews_stay_within_the_memory(bundle: Path) -> None:
    """A tiny decoder that does not fit beside the U-Net gives way to the linear map."""
    pipeline = TextToVideo.from_bundle(bundle, device="cpu")
    video = pipeline("a cat", frames=2, width=32, height=32, steps=1)
    by_decoder = pipeline.preview(video.latents)
    assert by_decoder.shape == video.frames.shape
    pipeline.stages._aside.clear()
    pipeline.stages.planner.max_memory = 1
    assert pipeline.preview(video.latents).shape == (2, 16, 16, 3)
