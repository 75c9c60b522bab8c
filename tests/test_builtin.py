"""The model that is installed with the runtime does what its prompt says."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from hummingbird_edge.distill.world.shapes.judge import judge
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.trial import snr_db

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_built_in_bundle_is_whole_and_small() -> None:
    bundle = Bundle.open(BUILTIN, verify=True)
    assert set(bundle.manifest.stages) >= {"text_encoder", "unet", "vae_decoder"}
    present = {p.relative_to(BUILTIN).as_posix() for p in BUILTIN.rglob("*") if p.is_file()}
    assert present == {*bundle.manifest.files, "hummingbird.json"}


@pytest.mark.parametrize(("prompt", "colour"), [("a red circle moving right", "red")])
def test_a_prompt_becomes_what_it_says(
    hb: Command, tmp_path: Path, prompt: str, colour: str
) -> None:
    done = hb("hb-run", prompt, "-o", "out.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    verdict = judge(np.stack(frames))
    assert (verdict.background, verdict.actors[0].colour) == ("black", colour)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least_db"), [("fp32", 60), ("bf16", 30)])
def test_engines_agree_over_all_steps(precision: str, least_db: float) -> None:
    """The export holds ONNX Runtime's CPU to PyTorch; the others are held to that."""
    pytest.importorskip("openvino")
    if precision not in Device.parse("openvino").precisions():
        pytest.skip(f"this processor has no {precision}")
    prompt = "a large blue square spinning"
    truth = TextToVideo.from_bundle(device="cpu")(prompt).latents
    found = TextToVideo.from_bundle(device="openvino", precision=precision)(prompt).latents
    assert snr_db(found, truth) >= least_db
