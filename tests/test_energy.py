"""Joules are what the system counted; low power takes fewer threads and the leanest device."""

import json
import plistlib
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hummingbird_edge.benchmarks import latency
from hummingbird_edge.benchmarks.lib.cases import VideoCase
from hummingbird_edge.benchmarks.lib.record import Record
from hummingbird_edge.benchmarks.lib.video import measure_video
from hummingbird_edge.runtime import result
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices import energy
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.battery import AppleBattery, BatteryState, Charge
from hummingbird_edge.runtime.devices.cpu import low_power_threads, usable_cores
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.energy import Battery, NoMeter, Packages, find_meter
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.loading import open_stage
from hummingbird_edge.runtime.media.video import write_video
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement import runner, tuning
from hummingbird_edge.runtime.placement.plan import Reason
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.runtime.placement.trial import Trial, run_trial
from hummingbird_edge.runtime.placement.tuning import recall, recall_leanest, tune
from hummingbird_edge.runtime.request import Request
from tests.conftest import small_sizes

Command = Callable[..., "subprocess.CompletedProcess[str]"]

RANGE_UJ = 262_143_328_850
SIZES = small_sizes()
VIDEO: dict[str, Any] = {"frames": 2, "width": 32, "height": 32, "steps": 2}
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="where /sys is")


@dataclass(frozen=True, slots=True)
class System:
    """A tree of files as Linux shows it in /sys/class."""

    root: Path

    def write(self, folder: str, **files: object) -> None:
        """Write files of a device."""
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (self.root / folder / name).write_text(f"{value}\n", encoding="ascii")

    def add_zone(self, zone: str, name: str, energy_uj: int = 0) -> None:
        """Add a counter of powercap."""
        entries = {"energy_uj": energy_uj, "max_energy_range_uj": RANGE_UJ}
        self.write(f"powercap/intel-rapl:{zone}", name=name, **entries)

    def use(self, joules: float, zone: str = "0") -> None:
        """Count joules on, from zero where the range ends."""
        file = self.root / f"powercap/intel-rapl:{zone}/energy_uj"
        now = int(file.read_text(encoding="ascii")) + round(joules * 1e6)
        file.write_text(f"{now % RANGE_UJ}\n", encoding="ascii")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Return a system that shows no counter yet, instead of this machine's."""
    monkeypatch.setattr(energy, "SYSTEM", tmp_path / "class")
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "class").mkdir()
    return System(tmp_path / "class")


@on_linux
def test_packages_are_added_up_and_wrap_around(system: System) -> None:
    system.add_zone("0", "package-0", RANGE_UJ - 1_000_000)
    system.add_zone("1", "package-1")
    for zone, name in (("0:0", "core"), ("0:1", "dram"), ("2", "psys")):
        system.add_zone(zone, name)
    meter = find_meter()
    assert (type(meter), meter.source, meter.read()) == (Packages, "packages", 0)
    system.use(3.5)  # past the end of its range
    assert int((system.root / "powercap/intel-rapl:0/energy_uj").read_text()) == 2_500_000
    assert meter.read() == pytest.approx(3.5)
    system.use(2, "1")
    system.use(50, "0:0")
    system.use(60, "2")
    assert meter.read() == pytest.approx(5.5)
    assert meter.covers(Device.parse("cpu"))
    assert meter.covers(Device.parse("openvino"))
    assert not meter.covers(Device.parse("dml"))
    assert meter.told(5.5, 1.0) == 5.5
    assert meter.told(0.0, 1.0) is None  # a counter that stands still counts nothing
    assert meter.told(None, 1.0) is None


@on_linux
def test_a_counter_that_cannot_be_read_is_none(system: System) -> None:
    system.add_zone("0", "package-0")
    meter = find_meter()
    system.use(1)
    assert meter.read() == pytest.approx(1)
    file = system.root / "powercap/intel-rapl:0/energy_uj"
    file.unlink()
    file.mkdir()  # root reads files of any mode
    assert meter.read() is None
    file.rmdir()
    system.add_zone("0", "package-0")
    assert meter.read() is None  # what was used meanwhile is not known
    file.write_text("", encoding="ascii")
    assert type(find_meter()) is NoMeter


@on_linux
def test_counters_for_root_alone_are_none(system: System) -> None:
    system.add_zone("0", "package-0")
    file = system.root / "powercap/intel-rapl:0/energy_uj"
    file.chmod(0)
    try:
        file.read_bytes()
    except PermissionError:
        assert type(find_meter()) is NoMeter
    else:
        pytest.skip("this user reads all files")


def test_a_system_that_tells_nothing(system: System) -> None:
    meter = find_meter()
    if sys.platform == "linux":
        assert (type(meter), meter.read(), meter.source) == (NoMeter, None, "")


@on_linux
def test_a_battery_that_discharges(system: System) -> None:
    system.write("power_supply/AC", type="Mains", online=0)
    mouse = {"type": "Battery", "scope": "Device", "status": "Discharging"}
    system.write("power_supply/hidpp_battery_0", **mouse, energy_now=1)
    battery = {"type": "Battery", "status": "Discharging"}
    system.write("power_supply/BAT0", **battery, energy_now=50_000_000)
    meter = find_meter()
    assert (type(meter), meter.source, meter.read()) == (Battery, "battery", 0)
    assert meter.covers(Device.parse("dml"))
    system.write("power_supply/BAT0", energy_now=49_000_000)  # a watt-hour less
    assert meter.read() == pytest.approx(3600)
    assert meter.told(3600, 100) == 3600
    assert meter.told(36, 100) is None  # a step of the battery's counter
    assert meter.told(3600, 5) is None  # sooner than batteries report
    system.write("power_supply/BAT0", status="Charging")
    assert meter.read() is None
    system.write("power_supply/BAT0", status="Discharging")
    assert meter.read() is None
    system.write("power_supply/BAT0", status="Full")
    assert type(find_meter()) is NoMeter


@on_linux
def test_a_battery_that_counts_charge(system: System) -> None:
    battery = {"type": "Battery", "status": "Discharging"}
    system.write("power_supply/BAT0", **battery, charge_now=4_000_000, voltage_now=12_000_000)
    system.write("power_supply/BAT1", type="Battery", status="Not charging", energy_now=9_000_000)
    meter = find_meter()
    # The voltage falls under load: no energy has left.
    system.write("power_supply/BAT0", voltage_now=10_000_000)
    assert meter.read() == 0
    system.write("power_supply/BAT0", charge_now=3_900_000)
    assert meter.read() == pytest.approx(0.1 * 10 * 3600)


def test_batteries_of_windows_and_macos() -> None:
    fields = struct.pack("<4B3xB6I", 0, 1, 0, 1, 0, 50_000, 41_000, 0, 0, 0, 0)
    assert BatteryState.from_buffer_copy(fields).charges() == [Charge(41.0)]
    with pytest.raises(ValueError, match="does not discharge"):
        BatteryState.from_buffer_copy(b"\x01" + fields[1:]).charges()
    entry = {"ExternalConnected": False, "CurrentCapacity": 80, "Voltage": 12_000}
    registry = [plistlib.dumps([{**entry, "AppleRawCurrentCapacity": 4_000}])]
    assert AppleBattery(lambda: registry[0])() == [Charge(4.0, 12.0)]
    assert AppleBattery(lambda: plistlib.dumps([{**entry, "CurrentCapacity": 3_000}]))() == [
        Charge(3.0, 12.0)
    ]
    on_mains = plistlib.dumps([{**entry, "ExternalConnected": True}])
    for text in (on_mains, b"", b"<?xml", plistlib.dumps([])):
        with pytest.raises(ValueError, match=r"discharge|no battery|not enough"):
            AppleBattery(lambda text=text: text)()  # type: ignore[misc]


def count_joules(
    monkeypatch: pytest.MonkeyPatch, system: System, joules: Mapping[str, float]
) -> None:
    """Let every run of a stage use so many joules, and the time that a counter needs."""

    def counted(bundle: Bundle, stage: str, *args: Any) -> Any:
        session = open_stage(bundle, stage, *args)
        run = session.run

        def use_and_run(inputs: Mapping[str, Any]) -> Any:
            system.use(joules[stage])
            time.sleep(0.025)
            return run(inputs)

        session.run = use_and_run  # type: ignore[method-assign]
        return session

    monkeypatch.setattr(runner, "open_stage", counted)


@on_linux
def test_a_video_tells_the_joules_of_its_stages(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.add_zone("0", "package-0", RANGE_UJ - 2_000_000)
    count_joules(monkeypatch, system, {"text_encoder": 1, "unet": 10, "vae_decoder": 5})
    pipeline = TextToVideo.from_bundle(device="cpu")
    guided = 1 if pipeline.manifest.model.guidance_width else 2
    timings = pipeline("a red circle", **VIDEO).timings
    found = timings.as_dict()
    assert found["text_encoder_j"] == pytest.approx(guided)
    assert found["unet_j"] == pytest.approx(20 * guided)
    assert found["vae_decoder_j"] == pytest.approx(5)
    assert found["total_j"] == pytest.approx(21 * guided + 5)
    assert found["joules_from"] == "packages"
    assert str(timings).endswith(f"s, {21 * guided + 5} J")
    again = pipeline("a red circle", **VIDEO).timings.energy
    assert again.total_j == pytest.approx(21 * guided + 5)


@on_linux
def test_short_stages_on_a_battery_are_not_told(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    battery = {"type": "Battery", "status": "Discharging"}
    system.write("power_supply/BAT0", **battery, energy_now=50_000_000)
    timings = TextToVideo.from_bundle(device="cpu")("a red circle", **VIDEO).timings
    assert timings.energy.source == "battery"
    assert timings.energy.unet_j is None
    assert timings.energy.total_j is None
    assert "J" not in str(timings)


@pytest.mark.slow
@on_linux
def test_a_benchmark_row_has_joules_or_no_values(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request.for_model(Bundle.open(BUILTIN).manifest, "a red circle", seed=7, **VIDEO)
    case = VideoCase(BUILTIN, "cpu", "fp32", "fp32", request, 2, None, tmp_path)
    without = measure_video(case)
    names = ("text_encoder_j", "unet_j", "decoder_j", "video_j")
    assert {without.measures[name] for name in names} == {()}
    system.add_zone("0", "package-0")
    count_joules(monkeypatch, system, {"text_encoder": 1, "unet": 10, "vae_decoder": 5})
    row = replace(measure_video(case), name="counted")
    assert row.measures["decoder_j"] == pytest.approx((5, 5))
    assert row.measures["video_j"] == pytest.approx((row.median("unet_j") * 1.05 + 5,) * 2)
    Record.of("latency", None, [without, row]).write(tmp_path / "latency.json")
    assert Record.read(tmp_path / "latency.json").rows == (without, row)
    agreed = [replace(r, measures={**r.measures, "agreement_db": (99.0,)}) for r in (without, row)]
    whole = latency.table(agreed).split("\n\n")[1].splitlines()
    column = whole[0].split("|").index(" J a video ")
    found = [line.split("|")[column].strip() for line in whole[2:]]
    assert found == ["", f"{row.median('video_j'):.1f}"]


@on_linux
def test_short_videos_on_a_battery_are_measured_together(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    battery = {"type": "Battery", "status": "Discharging"}
    system.write("power_supply/BAT0", **battery, energy_now=50_000_000)
    monkeypatch.setattr(energy.Battery, "min_seconds", 0.0)
    left = 50_000_000

    def drained(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 75_000  # 270 J: less than a video needs to be told, two are enough
        system.write("power_supply/BAT0", energy_now=left)
        return write_video(*args, **kwargs)

    monkeypatch.setattr(result, "write_video", drained)
    request = Request.for_model(Bundle.open(BUILTIN).manifest, "a red circle", seed=7, **VIDEO)
    row = measure_video(VideoCase(BUILTIN, "cpu", "fp32", "fp32", request, 2, None, tmp_path))
    assert row.measures["video_j"] == pytest.approx((270,))
    assert row.measures["unet_j"] == ()


@pytest.mark.slow
def test_json_has_joules_or_null(hb: Command, tmp_path: Path) -> None:
    done = hb("hb-run", "a red circle", "-o", tmp_path / "a.webp", "--json", "--low-power",
              "--device", "cpu", "--verbose", "--steps", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    timings = json.loads(done.stdout)["timings"]
    names = {"text_encoder_j", "unet_j", "vae_decoder_j", "total_j", "joules_from"}
    assert names <= set(timings)
    if not find_meter().source:
        assert {timings[name] for name in names} == {None}
    threads = low_power_threads()
    assert f"unet: cpu fp32, {threads} thread" in done.stderr
    assert "no energy was measured" not in done.stderr  # with a device named there is no choice


def sessions_of(pipeline: TextToVideo) -> list[Any]:
    """Return the loaded sessions."""
    runners = pipeline.stages._runners.values()
    return [runner._session for _, runner in runners]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_low_power_computes_with_fewer_threads(device: str) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    threads = low_power_threads()
    assert 1 <= threads <= max(1, usable_cores() // 2)
    pipeline = TextToVideo.from_bundle(device=device, precision="fp32", low_power=True)
    video = pipeline("a red circle", **VIDEO)
    for session in sessions_of(pipeline):
        if device == "cpu":
            assert session._session.get_session_options().intra_op_num_threads == threads
        else:
            assert session._model.get_property("INFERENCE_NUM_THREADS") == threads
    assert len(sessions_of(pipeline)) == 3
    full = TextToVideo.from_bundle(device=device, precision="fp32")("a red circle", **VIDEO)
    assert abs(video.frames.astype(int) - full.frames).max() <= 1


def test_threads_tell_compiled_models_apart(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    bundle, cache, notes = Bundle.open(BUILTIN), CompileCache(tmp_path), list[str]()
    for threads in (None, 1, None, 1):
        backend = replace(Backend.parse("openvino"), threads=threads)
        session = open_stage(bundle, "text_encoder", backend, {"batch": 1}, cache, notes.append)
        found: Any = session
        count = found._model.get_property("INFERENCE_NUM_THREADS")
        assert (count == 1) if threads else (count >= 1)
    assert [note.partition(" once")[0] for note in notes] == [
        "compiling text_encoder for openvino fp32,",
        "compiling text_encoder for openvino fp32, 1 thread,",
    ]


def lean(monkeypatch: pytest.MonkeyPatch, joules: Mapping[str, float | None]) -> None:
    """Let trials on a device take so many joules a run; those on the CPU are the slowest."""
    monkeypatch.setattr(tuning, "known_devices", lambda: ["cpu", "openvino"])

    def told(*args: Any, **kwargs: Any) -> Trial:
        trial, device = run_trial(*args, **kwargs), args[2].device.name
        return replace(trial, joules=joules[device], seconds=(2.0 if device == "cpu" else 1.0,))

    monkeypatch.setattr(tuning, "run_trial", told)


@pytest.mark.slow
def test_low_power_takes_the_fewest_joules(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    lean(monkeypatch, {"cpu": 3.0, "openvino": 4.0})
    bundle, cpu, threads = Bundle.open(BUILTIN), Backend.parse("cpu"), low_power_threads()
    fastest = tune(bundle, SIZES)
    assert {each.placement.backend.device.name for each in fastest.values()} == {"openvino"}
    assert fastest["unet"].as_dict()["joules"] == 4.0
    assert recall(bundle, SIZES)["unet"] == fastest["unet"].placement.backend
    assert recall_leanest(bundle, SIZES, threads) == dict.fromkeys(SIZES, cpu)
    notes = list[str]()
    pipeline = TextToVideo.from_bundle(low_power=True, notify=notes.append)
    pipeline("a penguin", **VIDEO)
    for placement in pipeline.placements.values():
        assert placement.backend == replace(cpu, threads=threads)
        assert placement.reason is Reason.LEANEST
    assert notes == []
    # Full power is judged by seconds, and a request counts more than joules.
    assert Planner(bundle).plan(SIZES).placements["unet"][0].reason is Reason.MEASURED
    named = Planner(bundle, "openvino", low_power=True).plan(SIZES).placements["unet"]
    assert {each.backend.device.name for each in named} == {"openvino"}
    # What was measured with few threads counts more than what was with all.
    lean(monkeypatch, {"cpu": 4.0, "openvino": 3.0})
    best = tune(bundle, SIZES, threads=threads)
    assert best["unet"].placement.backend.threads == threads
    leanest = recall_leanest(bundle, SIZES, threads)
    assert {backend.device.name for backend in leanest.values()} == {"openvino"}
    assert recall(bundle, SIZES) == {name: m.placement.backend for name, m in fastest.items()}


@pytest.mark.slow
def test_nothing_is_chosen_by_joules_of_some(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    lean(monkeypatch, {"cpu": 3.0, "openvino": None})
    bundle = Bundle.open(BUILTIN)
    tune(bundle, SIZES)
    assert recall_leanest(bundle, SIZES, 1) == {}
    notes = list[str]()
    pipeline = TextToVideo.from_bundle(low_power=True, notify=notes.append)
    for _ in range(2):
        pipeline("a penguin", **VIDEO)
    told = [note for note in notes if note.startswith("no energy was measured of text_encoder, ")]
    assert len(told) == 1
    assert {p.reason for p in pipeline.placements.values()} == {Reason.MEASURED}
    assert {p.backend.threads for p in pipeline.placements.values()} == {low_power_threads()}


@pytest.mark.slow
def test_tuning_for_low_power_as_a_command(hb: Command) -> None:
    done = hb("hb-run", "--tune", "--low-power", "--size", "32x32", "--frames", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert f"unet on cpu fp32, {low_power_threads()} thread" in done.stderr
    found = json.loads(done.stdout)
    if not find_meter().source:
        assert {entry["joules"] for entry in found.values()} == {None}
        assert "the system tells no joules of every device here" in done.stderr
