"""A stage in a process of its own: the same numbers, and no fault of an engine ends a video."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.engines import worker
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.worker import Limits, Worker, needs_worker
from hummingbird_edge.runtime.errors import DeviceError, HummingbirdWarning, RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement import planner, stages
from hummingbird_edge.runtime.result import Progress

GRAPH = BUILTIN / "vae_decoder" / "model.onnx"
SCRIPT = Path(__file__).parent / "misbehaving_worker.py"
RUNS = {"text_encoder": 0, "unet": 2, "vae_decoder": 0}
"""The run in which each stage breaks: amid the video."""


@pytest.fixture
def in_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker.VARIABLE, "all")


def test_only_what_has_a_driver_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("cpu", "openvino", "openvino:GPU", "dml", "migraphx")
    found = [needs_worker(Device.parse(name)) for name in names]
    assert found == [False, False, True, True, True]
    monkeypatch.setenv(worker.VARIABLE, "none")
    assert not any(needs_worker(Device.parse(name)) for name in names)
    monkeypatch.setenv(worker.VARIABLE, "some")
    with pytest.raises(RequestError, match="set it to gpu, all or none"):
        needs_worker(Device.parse("cpu"))


def test_it_gives_the_same_numbers_and_ends_with_its_session() -> None:
    backend, rng = Backend.parse("cpu"), np.random.default_rng(0)
    here, there = open_session(GRAPH, backend), Worker(Limits()).open(GRAPH, backend)
    process = psutil.Process(there.worker._process.pid)
    for frames in (1, 3, 2):  # the memory that is shared grows, and is used again
        z = rng.normal(size=(frames, 4, 4, 4)).astype(np.float32)
        np.testing.assert_array_equal(
            here.run({"latent_sample": z}), there.run({"latent_sample": z})
        )
    with pytest.raises(DeviceError, match="cpu failed while computing"):
        there.run({"latent_sample": np.zeros((1, 9, 4, 4), np.float32)})
    assert there.worker.peak_bytes > 30 << 20
    del there
    process.wait(10)


@pytest.mark.slow
def test_it_ends_with_its_parent() -> None:
    code = (
        "import time\n"
        "from hummingbird_edge.runtime.engines.worker import Limits, Worker\n"
        "worker = Worker(Limits())\n"
        "print(worker._process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        there = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1)
        parent.kill()
        there.wait(10)


def test_a_process_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PROGRAM", [sys.executable, "-c", "raise SystemExit('no engine')"])
    with pytest.raises(DeviceError, match=r"loading vae_decoder: its process ended.*\(no engine\)"):
        Worker(Limits()).open(GRAPH, Backend.parse("cpu"))


@pytest.fixture(scope="module")
def truth() -> NDArray[np.uint8]:
    """Make the video that no device fails at."""
    return TextToVideo.from_bundle(device="cpu")("a red circle", seed=3).frames


@pytest.mark.slow
@pytest.mark.parametrize("what", ["abort", "hang", "leak", "nan"])
@pytest.mark.parametrize("stage", RUNS)
@pytest.mark.usefixtures("in_workers")
def test_a_device_that_falls_costs_its_stage_not_the_video(
    what: str, stage: str, truth: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(worker, "PROGRAM", [sys.executable, str(SCRIPT)])
    monkeypatch.setenv("MISBEHAVE", f"openvino {stage} {RUNS[stage]} {what}")
    limits = Limits(run_s=3) if what == "hang" else Limits(bytes=1 << 30)
    monkeypatch.setattr(stages, "limits_of", lambda *_: limits)
    monkeypatch.setattr(planner, "_QUICK_FLOPS", 0)  # OpenVINO first, as for a large video
    pipeline, steps = TextToVideo.from_bundle(precision="fp32"), list[int]()
    with pytest.warns(HummingbirdWarning) as warned:
        video = pipeline("a red circle", seed=3, on_step=lambda p: steps.append(p.index))
    (sentence,) = [str(each.message) for each in warned]
    expected = {
        "abort": "ended by SIGABRT" if sys.platform != "win32" else "ended with status",
        "hang": "no answer for 3 s",
        "leak": "more than the 1024 MiB",
        "nan": "NaN",
    }
    assert f"{stage} failed on openvino" in sentence
    assert expected[what] in sentence
    assert "going on with cpu fp32" in sentence
    assert steps == [1, 2, 3, 4]  # none was taken twice
    noise = np.square(video.frames.astype(float) - truth).mean()
    assert 10 * np.log10(255**2 / max(noise, 1e-9)) > 40
    devices = {name: each.backend.device.name for name, each in pipeline.placements.items()}
    assert devices[stage] == "cpu"
    assert sum(name == "cpu" for name in devices.values()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("in_workers")
def test_the_next_stage_loads_while_the_present_one_computes() -> None:
    pipeline, counts = TextToVideo.from_bundle(device="cpu"), list[int]()

    def look(progress: Progress) -> None:
        time.sleep(1 if progress.index == 1 else 0)
        commands = [child.cmdline() for child in psutil.Process().children()]
        counts.append(sum("worker_process" in command[-1] for command in commands))

    video = pipeline("a red circle", seed=3, on_step=look)
    assert counts == [3] * 4  # the decoder's worker is there while the U-Net's computes
    assert video.timings.load_s["vae_decoder"] < 0.2


def test_one_device_does_not_load_two_stages_at_once() -> None:
    pipeline = TextToVideo.from_bundle(device="cpu")
    pipeline("a red circle", frames=1, width=32, height=32, steps=1)
    assert not pipeline.stages._ahead
