"""Bundles on the real DirectML provider, under Wine; set_up.sh beside this file."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image

import hummingbird_edge.runtime
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.files import sha256_of
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.trial import run_trial, snr_db

pytestmark = pytest.mark.slow
DEFAULT = Path.home() / ".cache" / "hummingbird-edge" / "wine"
FULL_SIZE = "HUMMINGBIRD_DEFAULT_BUNDLE"
"""Names a folder that `hb-export build` made of a full-size checkpoint."""
PROMPT = "a penguin waddling in the snow"
FRAMES, STEPS = 4, 2
"""Of a video: a processor is the graphics card."""
SHAPE = ("--frames", str(FRAMES), "--steps", str(STEPS))
MIN_SHARE = 0.95
MIN_PSNR_DB = 35.0
SIZES = {
    "text_encoder": {"batch": 1},
    "unet": {"frames": FRAMES, "height": 8, "width": 8},
    "vae_decoder": {"frames": FRAMES, "height": 8, "width": 8},
}

# Without an adapter's number the provider asks dxcore.dll for the best one: Wine 8 has none.
DML = "dml:0"

ONE_STAGE = """
import json, sys
import numpy as np
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.placement.trial import run_trial

folder, stage, sizes, out = sys.argv[1:]
backend = Backend.parse("dml:0", "fp16")
trial = run_trial(Bundle.open(folder), stage, backend, json.loads(sizes), runs=1)
np.save(out, trial.output)
print(json.dumps({"share": trial.share, "seconds": trial.median_s}))
"""

HB_RUN = "from hummingbird_edge.runtime.cli import main; main()"

Wine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wine]:
    """Return a function that runs Windows' Python with a program and its arguments."""
    folder = Path(os.environ.get("HUMMINGBIRD_WINE") or DEFAULT)
    if not (folder / "ready").is_file() or not (shutil.which("wine") and shutil.which("Xvfb")):
        pytest.skip("DirectML under Wine is not set up: bash tests/directml/set_up.sh")
    modules = staged_runtime(tmp_path_factory.mktemp("modules"))
    with subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as display:
        assert display.stdout is not None
        environment = {
            **os.environ,
            **lavapipe(),
            "DISPLAY": f":{display.stdout.readline().strip()}",
            "WINEPREFIX": str(folder / "prefix"),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            # Where a program crashes, its end and not a debugger that waits.
            "WINEDLLOVERRIDES": "mscoree,mshtml=;winedbg.exe=d",
            "PYTHONPATH": f"{windows(folder / 'site')};{windows(modules)}",
        }

        def run(
            program: str, *arguments: object, timeout_s: int = 600
        ) -> "subprocess.CompletedProcess[str]":
            python = str(folder / "python" / "python.exe")
            return subprocess.run(
                ["wine", python, "-c", program, *(str(argument) for argument in arguments)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                timeout=timeout_s,
            )

        yield run
        subprocess.run(["wine", "wineboot", "-k"], env=environment, capture_output=True, timeout=60)
        display.terminate()


def staged_runtime(folder: Path) -> Path:
    """Copy the runtime under test to `folder`, as if it were installed there."""
    package = Path(hummingbird_edge.runtime.__file__).parent
    shutil.copytree(package, folder / "hummingbird_edge" / "runtime")
    facts = folder / "hummingbird_edge.dist-info" / "METADATA"
    facts.parent.mkdir()
    number = version("hummingbird-edge")
    facts.write_text(f"Metadata-Version: 2.1\nName: hummingbird-edge\nVersion: {number}\n")
    return folder


def lavapipe() -> dict[str, str]:
    """Return the environment in which Vulkan is Mesa's software driver, on any machine."""
    drivers = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
    return {"VK_DRIVER_FILES": str(drivers[0])} if drivers else {}


def windows(path: Path) -> str:
    """Return an absolute path as Wine's programs read it."""
    return "Z:" + str(path).replace("/", "\\")


@pytest.fixture(scope="module")
def half_bundle(
    wine: Wine, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the built-in bundle with float16 graphs, ready for Wine."""
    half: Path = request.getfixturevalue("half_builtin")  # not before `wine` could skip
    folder = tmp_path_factory.mktemp("half") / "bundle"
    return prepare_for_wine(Path(shutil.copytree(half, folder)))


@pytest.fixture
def full_bundle(wine: Wine, tmp_path: Path) -> Path:
    """Return the bundle that the user names, ready for Wine; its weights are not copied."""
    named = os.environ.get(FULL_SIZE)
    if named is None:
        pytest.skip(f"half an hour: {FULL_SIZE}=FOLDER names a default bundle of full size")

    def link(source: str, target: str) -> str:
        try:
            os.link(source, target)
        except OSError:  # another disk
            shutil.copyfile(source, target)
        return target

    return prepare_for_wine(Path(shutil.copytree(named, tmp_path / "full", copy_function=link)))


def prepare_for_wine(folder: Path) -> Path:
    """Change the U-Net's graph in the bundle at `folder`, and its digest; returns `folder`."""
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    graph = Bundle.open(folder).graph("unet", "dml", "float16")
    without_wide_integers(graph)
    facts = {"bytes": graph.stat().st_size, "sha256": sha256_of(graph)}
    entries["files"][graph.relative_to(folder).as_posix()] = facts
    replace_file(folder / MANIFEST, json.dumps(entries).encode())
    return folder


def replace_file(path: Path, content: bytes) -> None:
    """Write a new file at `path`: the old one may have another name elsewhere."""
    path.unlink()
    path.write_bytes(content)


def without_wide_integers(path: Path) -> None:
    """Look timestep and frame rate up in a table: Wine's Direct3D casts no 64-bit integers."""
    model = onnx.load(path, load_external_data=False)
    numbers = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "numbers")
    model.graph.initializer.append(numbers)
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in ("timestep", "fps"):
            table = helper.make_node("Gather", ["numbers", *node.input], node.output, node.name)
            node.CopyFrom(table)
    replace_file(path, model.SerializeToString())


@pytest.fixture(scope="module")
def truth() -> NDArray[np.uint8]:
    """Make the video in float32 on the CPU, outside Wine."""
    pipeline = TextToVideo.from_bundle(device="cpu")
    return pipeline(PROMPT, seed=7, frames=FRAMES, steps=STEPS).frames


@pytest.mark.parametrize(
    ("stage", "least_snr_db"), [("text_encoder", 50), ("unet", 40), ("vae_decoder", 30)]
)
def test_a_half_graph_on_directml(
    wine: Wine, half_bundle: Path, tmp_path: Path, stage: str, least_snr_db: float
) -> None:
    sizes = SIZES[stage]
    arguments = windows(half_bundle), stage, json.dumps(sizes), windows(tmp_path / "made.npy")
    done = wine(ONE_STAGE, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    cpu = Backend.parse("cpu")
    expected = run_trial(Bundle.open(BUILTIN), stage, cpu, sizes, runs=0).output
    snr = snr_db(np.load(tmp_path / "made.npy"), expected)
    print(f"{stage}: {100 * found['share']:.1f} % on DirectML, {snr:.1f} dB, {found['seconds']} s")
    assert found["share"] >= MIN_SHARE
    assert snr >= least_snr_db


@pytest.mark.parametrize("device", [DML, f"unet={DML},vae={DML},text=cpu"])
def test_a_video_on_directml(
    wine: Wine, half_bundle: Path, truth: NDArray[np.uint8], tmp_path: Path, device: str
) -> None:
    half = "--bundle", windows(half_bundle), "--precision", "fp16"
    made = hb_run(wine, tmp_path, "--device", device, *half, *SHAPE)
    for stage, facts in made["stages"].items():
        assert facts["precision"] == "fp16"
        asked = "cpu" if stage == "text_encoder" and device != DML else DML
        assert (facts["device"], facts["why"]) == (asked, "requested")
        assert facts["share_on_device"] >= MIN_SHARE
    found = psnr_db(frames_of(tmp_path / "frames"), truth)
    print(f"{device}: {found:.1f} dB, {made['timings']['total_s']:.0f} s")
    assert found >= MIN_PSNR_DB


def test_a_video_on_windows_without_directml(
    wine: Wine, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    hb_run(wine, tmp_path, "--device", "cpu", *SHAPE)
    # The same noise and the same arithmetic; compilers round differently.
    assert psnr_db(frames_of(tmp_path / "frames"), truth) >= 60


def test_the_default_bundle_at_full_size(wine: Wine, full_bundle: Path, tmp_path: Path) -> None:
    half = "unet=fp16,vae=fp16"
    # Its text encoder has int8 weights and computes in float32, which Wine's Direct3D cannot.
    devices = f"unet={DML},vae={DML},text=cpu"
    reference = TextToVideo.from_bundle(full_bundle, device="cpu", precision=half)
    truth = reference(PROMPT, frames=2, width=64, height=64, seed=7).frames
    options = ("--frames", "2", "--size", "64x64", "--precision", half, "--device", devices)
    bundle = ("--bundle", windows(full_bundle))
    made = hb_run(wine, tmp_path, *bundle, *options, timeout_s=3600)
    for stage in ("unet", "vae_decoder"):
        facts = made["stages"][stage]
        assert (facts["device"], facts["share_on_device"]) == (DML, 1.0), stage
        assert facts["precision"] == "fp16"
    found = psnr_db(frames_of(tmp_path / "frames"), truth)
    print(f"full size: {found:.1f} dB, {made['timings']}, {made['memory']}")
    assert found >= 50


def hb_run(wine: Wine, folder: Path, *options: str, timeout_s: int = 600) -> dict[str, Any]:
    """Make the video as PNG files in `folder/frames`; return what `hb-run --json` says."""
    out = windows(folder / "frames")
    arguments = (*options, "--json", "--seed", "7", "-o", out, PROMPT)
    done = wine(HB_RUN, *arguments, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def frames_of(folder: Path) -> NDArray[np.uint8]:
    """Read the numbered pictures of `folder`, (T, H, W, 3) uint8."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def psnr_db(found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of uint8 frames in decibels."""
    error = float(np.square(found.astype(np.float64) - truth).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
