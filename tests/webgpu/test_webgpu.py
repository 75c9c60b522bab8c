"""The built-in model on WebGPU, by Mesa's software Vulkan; set_up.sh beside this file."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import hummingbird_edge.runtime
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.trial import run_trial, snr_db

pytestmark = pytest.mark.slow
DEFAULT = Path.home() / ".cache" / "hummingbird-edge" / "webgpu"
PROMPT = "a penguin waddling in the snow"
MIN_SHARE = 0.95
MIN_PSNR_DB = 35.0
SIZES = {
    "text_encoder": {"batch": 1},
    "unet": {"frames": 8, "height": 8, "width": 8},
    "vae_decoder": {"frames": 8, "height": 8, "width": 8},
}

ONE_STAGE = """
import json, sys
import numpy as np
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.placement.trial import run_trial

folder, precision, stage, sizes, out = sys.argv[1:]
backend = Backend.parse("webgpu", precision)
trial = run_trial(Bundle.open(folder), stage, backend, json.loads(sizes), runs=1)
np.save(out, trial.output)
print(json.dumps({"share": trial.share}))
"""

HB_RUN = "from hummingbird_edge.runtime.cli import main; main()"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def webgpu(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a program where ONNX Runtime has WebGPU."""
    folder = Path(os.environ.get("HUMMINGBIRD_WEBGPU") or DEFAULT)
    drivers = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
    if not (folder / "ready").is_file() or not drivers:
        pytest.skip("WebGPU on software Vulkan is not set up: bash tests/webgpu/set_up.sh")
    modules = staged_runtime(tmp_path_factory.mktemp("modules"))
    python = str(folder / "venv" / "bin" / "python")

    def run(program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [python, "-c", program, *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(modules), "VK_DRIVER_FILES": str(drivers[0])},
            timeout=600,
        )

    return run


def staged_runtime(folder: Path) -> Path:
    """Copy the runtime under test to `folder`, as if it were installed there."""
    package = Path(hummingbird_edge.runtime.__file__).parent
    shutil.copytree(package, folder / "hummingbird_edge" / "runtime")
    facts = folder / "hummingbird_edge.dist-info" / "METADATA"
    facts.parent.mkdir()
    number = version("hummingbird-edge")
    facts.write_text(f"Metadata-Version: 2.1\nName: hummingbird-edge\nVersion: {number}\n")
    return folder


@pytest.fixture(scope="module")
def bundles(webgpu: Run, request: pytest.FixtureRequest) -> dict[str, Path]:
    """Return the built-in bundle in float32, and one with float16 graphs, as hb-export does."""
    # Not before `webgpu` could skip.
    return {"fp32": BUILTIN, "fp16": request.getfixturevalue("half_builtin")}


@pytest.mark.parametrize(
    ("precision", "stage", "least_snr_db"),
    [
        ("fp16", "text_encoder", 45),
        ("fp16", "unet", 35),
        ("fp16", "vae_decoder", 30),
        ("fp32", "text_encoder", 90),
        ("fp32", "unet", 90),
        ("fp32", "vae_decoder", 90),
    ],
)
def test_a_graph_on_webgpu(
    webgpu: Run,
    bundles: dict[str, Path],
    tmp_path: Path,
    precision: str,
    stage: str,
    least_snr_db: float,
) -> None:
    sizes = SIZES[stage]
    asked = bundles[precision], precision, stage, json.dumps(sizes)
    done = webgpu(ONE_STAGE, *asked, tmp_path / "made.npy")
    assert done.returncode == 0, done.stderr
    share = json.loads(done.stdout.splitlines()[-1])["share"]
    cpu = Backend.parse("cpu")
    expected = run_trial(Bundle.open(BUILTIN), stage, cpu, sizes, runs=0).output
    snr = snr_db(np.load(tmp_path / "made.npy"), expected)
    print(f"{precision} {stage}: {100 * share:.1f} % on WebGPU, {snr:.1f} dB")
    assert share >= MIN_SHARE
    assert snr >= least_snr_db


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_video_on_webgpu(
    webgpu: Run, bundles: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    out = tmp_path / "frames"
    options = ["--bundle", bundles[precision], "--device", "webgpu", "--precision", precision]
    done = webgpu(HB_RUN, *options, "--json", "--seed", "7", "-o", out, PROMPT)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    for stage in SIZES:
        assert made["stages"][stage]["device"] == "webgpu"
        assert made["stages"][stage]["share_on_device"] >= MIN_SHARE
    truth = TextToVideo.from_bundle(device="cpu")(PROMPT, seed=7).frames
    found = psnr_db(frames_of(out), truth)
    print(f"{precision}: {found:.1f} dB, {made['timings']['total_s']:.0f} s")
    assert found >= MIN_PSNR_DB


def frames_of(folder: Path) -> NDArray[np.uint8]:
    """Read the numbered pictures of `folder`, (T, H, W, 3) uint8."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def psnr_db(found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of uint8 frames in decibels."""
    error = float(np.square(found.astype(np.float64) - truth).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
