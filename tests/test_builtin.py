"""The model that is installed with the runtime does what its prompt says."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from hummingbird_edge.distill.world.cartoons.shots import Shot
from hummingbird_edge.distill.worlds import BUILTIN_WORLD, evaluation_of
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.media.temporal_noise import measure_temporal_noise
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.trial import snr_db
from hummingbird_edge.runtime.result import to_pixels
from hummingbird_edge.runtime.tokenizer import Tokenizer
from tests.conftest import SHAPES

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("folder", [BUILTIN, SHAPES])
def test_the_bundles_of_the_project_are_whole(folder: Path) -> None:
    bundle = Bundle.open(folder, verify=True)
    assert set(bundle.manifest.stages) >= {"text_encoder", "unet", "vae_decoder"}
    assert bundle.bytes < 45e6
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert present == {*bundle.manifest.files, "hummingbird.json"}


@pytest.mark.slow  # loads the judge
def test_a_prompt_becomes_what_it_says(hb: Command, tmp_path: Path) -> None:
    prompt = "a big elephant walking, moving left on the grass"
    done = hb("hb-run", prompt, "-o", "out.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clips = np.stack(frames)[None].astype(np.uint8)
    shot = Shot("elephant", "left", "large", "meadow")
    scores = evaluation_of(BUILTIN_WORLD).score(clips, [shot])
    assert scores.accuracy["all"] == 1


@pytest.mark.slow
def test_the_built_in_model_is_judged_by_its_own_judge(hb: Command) -> None:
    evaluation = evaluation_of(BUILTIN_WORLD)
    captions = [caption for _, caption in evaluation.sample(16, 0)]
    bundle = Bundle.open(BUILTIN)
    tokenizer = Tokenizer(bundle.path("tokenizer"), bundle.manifest.model.context_length)
    assert not [caption for caption in captions if tokenizer(caption).unknown]
    done = hb("hb-distill", "score", "--captions", 2, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["captions"] == 2
    assert scores["accuracy"]["ground"] > 0
    other = hb("hb-distill", "score", SHAPES, "--captions", 2)
    assert other.returncode == 2
    assert "does not know the words of this world's captions" in other.stderr


@pytest.mark.slow  # sixteen videos
def test_its_temporal_noise_is_what_its_prompts_have() -> None:
    pipeline = TextToVideo.from_bundle(device="cpu")
    prompts = pipeline.manifest.prompts
    videos = [pipeline(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    measured = measure_temporal_noise(np.concatenate([video.latents for video in videos]))
    assert measured == pytest.approx(pipeline.manifest.model.temporal_noise, rel=0.05)
    # Its videos have little of it: half of all pixels stand still but for what decoding adds.
    decoder = open_session(pipeline.bundle.graph("vae_decoder"), Backend.parse("cpu"))
    z = videos[0].latents[0].transpose(1, 0, 2, 3) / pipeline.manifest.model.scaling_factor
    noisy = to_pixels(decoder.run({"latent_sample": np.ascontiguousarray(z)}))
    before, after = (np.abs(np.diff(x.astype(int), axis=0)) for x in (noisy, videos[0].frames))
    assert np.median(after) < np.median(before)
    assert np.mean(after == 0) > 2 * np.mean(before == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least_db"), [("fp32", 60), ("bf16", 30)])
def test_engines_agree_over_all_steps(precision: str, least_db: float) -> None:
    """The export holds ONNX Runtime's CPU to PyTorch; the others are held to that."""
    pytest.importorskip("openvino")
    if precision not in Device.parse("openvino").precisions():
        pytest.skip(f"this processor has no {precision}")
    prompt = Bundle.open(BUILTIN).manifest.prompts[0]
    truth = TextToVideo.from_bundle(device="cpu")(prompt).latents
    found = TextToVideo.from_bundle(device="openvino", precision=precision)(prompt).latents
    assert snr_db(found, truth) >= least_db
