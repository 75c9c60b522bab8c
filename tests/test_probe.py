"""Probing and tuning: what works is found out in a process apart, what is fastest is remembered."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement import probe as probing
from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.placement.plan import Reason
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.runtime.placement.probe import Verdict, known_devices, probe
from hummingbird_edge.runtime.placement.trial import Trial, run_trial, snr_db
from hummingbird_edge.runtime.placement.tuning import Measurement, recall, tune
from tests.conftest import small_sizes

Command = Callable[..., "subprocess.CompletedProcess[str]"]
SIZES = small_sizes()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_every_device_has_a_line(hb: Command) -> None:
    done = hb("hb-run", "--list-devices", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = {entry["device"]: entry for entry in json.loads(done.stdout)}
    assert set(found) >= {"cpu", "dml", "migraphx", "rocm", "webgpu", "openvino"}
    assert found["cpu"]["works"]
    assert found["cpu"]["snr_db"] > 100
    for name, advice in (
        ("dml", "for Windows"),
        ("migraphx", "pip uninstall onnxruntime, then pip install onnxruntime-migraphx"),
        ("rocm", "pip uninstall onnxruntime, then pip install onnxruntime-rocm"),
        ("webgpu", "pip install onnxruntime-ep-webgpu"),
    ):
        if not found[name]["installed"]:
            assert advice in found[name]["reason"]
    done = hb("hb-run", "--list-devices")
    lines = done.stdout.splitlines()
    assert len(lines) == len(found)
    assert lines[0].startswith("cpu          works          100 % of the nodes there")


def test_a_probe_that_dies_costs_the_probe_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As with a driver that aborts: the process ends before it can answer. Python without its
    # library does so on every system.
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    verdict = probe("cpu")
    assert not verdict.works
    assert verdict.installed
    assert "the probe ended with 1" in verdict.reason


def test_verdicts_are_remembered_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def noted(name: str) -> Verdict:
        tried.append(name)
        return Verdict(name, True, "fine")

    monkeypatch.setattr(probing, "_try_out", noted)
    assert probe("cpu") == probe("cpu")
    assert tried == ["cpu"]
    probe("cpu", fresh=True)
    assert tried == ["cpu"] * 2
    monkeypatch.setattr(probing, "environment", lambda: {"onnxruntime": "other"})
    probe("cpu")
    assert tried == ["cpu"] * 3
    with pytest.raises(RequestError, match="no device called"):
        probe("abacus")


@pytest.mark.parametrize(
    ("output", "share", "reason"),
    [
        (lambda x: x * np.nan, 1.0, "NaN"),
        (lambda x: -x, 1.0, "numbers are wrong"),
        (lambda x: x, 0.2, "leaves most of the work"),
    ],
)
def test_wrong_numbers_and_shirkers_do_not_work(
    monkeypatch: pytest.MonkeyPatch,
    output: Callable[[np.ndarray], np.ndarray],
    share: float,
    reason: str,
) -> None:
    answers = iter([lambda x: x, output])

    def altered(*args: object, **kwargs: object) -> Trial:
        trial = run_trial(*args, **kwargs)  # type: ignore[arg-type]
        return Trial(next(answers)(trial.output), trial.load_s, trial.seconds, share)

    monkeypatch.setattr(probing, "run_trial", altered)
    verdict = probing.examine("cpu")
    assert not verdict.works
    assert reason in verdict.reason


@pytest.mark.slow
def test_the_fastest_right_way_wins_and_is_used(own_cache: Path) -> None:
    bundle, heard = Bundle.open(BUILTIN), list[Measurement]()
    assert recall(bundle, SIZES) == {}
    best = tune(bundle, SIZES, heard.append)
    assert recall(bundle, SIZES) == {name: m.placement.backend for name, m in best.items()}
    assert set(best) == set(SIZES)
    for stage, winner in best.items():
        usable = [m for m in heard if m.placement.stage == stage and not m.failure]
        assert winner.median_s == min(m.median_s for m in usable)
    tried = {m.placement.backend for m in heard}
    assert Backend.parse("cpu") in tried
    assert {backend.device.name for backend in tried} == {
        n for n in known_devices() if probe(n).works
    }
    # Other sizes were not measured.
    assert recall(bundle, {**SIZES, "unet": {"frames": 3, "height": 4, "width": 4}}) == {}
    pipeline = TextToVideo.from_bundle(bundle)
    pipeline("a red star", frames=2, width=32, height=32)
    for stage, placement in pipeline.placements.items():
        assert placement.reason is Reason.MEASURED
        assert placement.backend == best[stage].placement.backend
    # A request counts more than a measurement.
    pipeline = TextToVideo.from_bundle(bundle, device="cpu")
    pipeline("a red star", frames=2, width=32, height=32)
    assert {p.reason for p in pipeline.placements.values()} == {Reason.REQUESTED}


@pytest.mark.slow
def test_tuning_as_a_command(hb: Command) -> None:
    done = hb("hb-run", "--tune", "--size", "32x32", "--frames", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == set(SIZES)
    assert "unet on cpu fp32: 0." in done.stderr


@pytest.mark.slow
def test_a_broken_record_is_no_record(own_cache: Path) -> None:
    bundle = Bundle.open(BUILTIN)
    tune(bundle, {"text_encoder": {"batch": 1}})
    (record,) = (own_cache / "tuning").iterdir()
    record.write_text('{"text_encoder": {"stage": 1}}', encoding="utf-8")
    assert recall(bundle, {"text_encoder": {"batch": 1}}) == {}


def test_trials_are_the_same_every_time() -> None:
    bundle, cpu = Bundle.open(BUILTIN), Backend.parse("cpu")
    first, again = (run_trial(bundle, "unet", cpu, SIZES["unet"], runs=2) for _ in range(2))
    np.testing.assert_array_equal(first.output, again.output)
    assert len(first.seconds) == 2
    assert first.median_s > 0
    with pytest.raises(DeviceError):
        run_trial(bundle, "unet", Backend(Device("cpu", "onnxruntime", "Abacus")), SIZES["unet"])


def test_signal_to_noise() -> None:
    truth = np.ones((4, 4), np.float32)
    assert snr_db(truth + 0.1, truth) == pytest.approx(20, abs=0.01)
    assert snr_db(truth, truth) >= 200
    assert snr_db(truth * np.float32(np.nan), truth) == -np.inf


def test_a_driver_may_write_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noise = "import os; os.write(2, b'\\xff\\xfe driver \\x80\\n')"
    (tmp_path / "sitecustomize.py").write_text(noise, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probe("cpu", fresh=True).works


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All stages are measured all the same."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(blocked))
    sizes, heard = {"text_encoder": {"batch": 1}, "vae_decoder": SIZES["vae_decoder"]}, list[str]()
    best = tune(Bundle.open(BUILTIN), sizes, notices=Notices(warn=heard.append))
    assert set(best) == set(sizes)
    assert [text.partition(" in ")[0] for text in heard] == ["the measurements cannot be kept"]


@pytest.mark.slow
def test_a_measured_backend_is_tried_once(own_cache: Path) -> None:
    bundle = Bundle.open(BUILTIN)
    tune(bundle, SIZES)
    for placements in Planner(bundle).plan(SIZES).placements.values():
        tried = [placement.backend for placement in placements]
        assert len(tried) == len(set(tried))
        assert placements[0].reason is Reason.MEASURED
