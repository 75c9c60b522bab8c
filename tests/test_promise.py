"""What is said before a video begins: seconds and memory, and what that rests on."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hummingbird_edge.export.flops import count_flops
from hummingbird_edge.export.models.config import PRESETS, ModelConfig
from hummingbird_edge.kernels.products import products
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import process_mark, state_directory, write_record
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement import stages as stages_module
from hummingbird_edge.runtime.placement.claims import Claim
from hummingbird_edge.runtime.placement.history import History, StageRecord
from hummingbird_edge.runtime.placement.limits import container_bytes
from hummingbird_edge.runtime.placement.plan import Placement
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.runtime.placement.promise import Promise, Source, promise
from hummingbird_edge.runtime.placement.rate import FOLDER, rate

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without a history, and without claims."""
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HUMMINGBIRD_STATE", str(tmp_path / "state"))


def promised(pipeline: TextToVideo) -> Promise:
    return pipeline.stages.promise


def test_operations_are_those_of_the_graph() -> None:
    """The published network takes 7.93e12 and 1.56e12: upsampling, it convolves large pictures."""
    config = PRESETS["hummingbird-0.7b"]
    pixels = 16 * 40 * 64
    assert count_flops(config, "unet") * pixels == pytest.approx(7.60e12, rel=0.01)
    assert count_flops(config, "vae_decoder") * 40 * 64 == pytest.approx(1.33e12, rel=0.02)


def test_the_built_in_model_states_its_operations() -> None:
    manifest = Bundle.open(BUILTIN).manifest
    config = ModelConfig.from_dict(manifest.provenance.config)
    for name in ("text_encoder", "unet", "vae_decoder", "vae_encoder"):
        assert manifest.stages[name].flops == count_flops(config, name)


def test_a_device_has_a_rate() -> None:
    for name in ("cpu", "openvino"):
        if name == "openvino":
            pytest.importorskip("openvino")
        assert 1e9 < (rate(Backend.parse(name)) or 0) < 1e14
    assert rate(Backend.parse("dml")) is None or sys.platform == "win32"


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_products_are_those_that_the_project_writes(precision: str) -> None:
    kept = (FOLDER / f"{precision}.onnx").read_bytes()
    assert kept == products(precision).SerializeToString()


def test_the_first_promise_is_an_estimate_and_the_next_one_rests_on_it() -> None:
    request: dict[str, Any] = {"frames": 2, "width": 32, "height": 32, "steps": 2}
    TextToVideo.from_bundle(device="cpu")("a red circle", **request)
    pipeline = TextToVideo.from_bundle(device="cpu")
    video = pipeline("a red circle", **request)
    assert promised(pipeline).source is Source.EARLIER
    assert promised(pipeline).memory_bytes > 50 << 20
    assert not any(stage.compiles for stage in promised(pipeline).stages.values())
    assert promised(pipeline).stages["unet"].parts == 2
    pipeline("a red circle", **request)
    assert all(stage.load_s == 0 for stage in promised(pipeline).stages.values())  # in memory
    pipeline("a red circle", **{**request, "frames": 4})
    known = promised(pipeline).stages["unet"]
    assert known.source is Source.SCALED
    before = History.of(pipeline.bundle).records
    assert len(before) == 5  # the text encoder's shape is the same
    assert video.memory.predicted >= 50 << 20
    assert video.memory.measured > 50 << 20


def test_a_promise_adds_up_and_says_what_it_rests_on() -> None:
    bundle = Bundle.open(BUILTIN)
    sizes = {"frames": 4, "height": 8, "width": 8}
    entry, backend = bundle.manifest.stage("unet"), Backend.parse("cpu")
    placement = Placement("unet", entry.kind, backend, sizes)

    def expect(history: History, tuned: dict[str, float]) -> Promise:
        return promise(bundle, {"unet": placement}, {"unet": 4}, history, tuned)

    first = expect(History({}), {})
    assert first.source is Source.ESTIMATED
    assert not first.stages["unet"].compiles
    assert "compiled first" not in str(first)
    History({}).add(bundle, [(placement, StageRecord(2.0, 0.0, 1.0, 300 << 20))])
    after = expect(History.of(bundle), {"unet": 9.0})
    assert after.total_s == pytest.approx(8.35)
    assert after.memory_bytes == 300 << 20
    assert after.source is Source.EARLIER
    assert after.seconds_until("unet", 0.5) == pytest.approx(4.35)
    assert str(after) == (
        "about 8.3 s on cpu fp32: U-Net 4 x 2.0 s, loading 0.35 s; 315MB of memory "
        "(from earlier videos)"
    )
    half = Placement("unet", entry.kind, backend, {**sizes, "frames": 2})
    scaled = promise(bundle, {"unet": half}, {"unet": 4}, History.of(bundle), {})
    assert scaled.stages["unet"].part_s == pytest.approx(1.0)
    assert scaled.source is Source.SCALED
    tuned = promise(bundle, {"unet": half}, {"unet": 4}, History({}), {"unet": 9.0})
    assert (tuned.stages["unet"].part_s, tuned.source) == (9.0, Source.TUNED)


@pytest.mark.parametrize("damage", ["[]", "{}", '{"a": 1}', '{"unet cpu fp32 {}": {"part_s": 1}}'])
def test_a_damaged_history_is_none(damage: str) -> None:
    from hummingbird_edge.runtime.placement import history

    bundle = Bundle.open(BUILTIN)
    path = history._path(bundle)
    path.parent.mkdir(parents=True)
    path.write_text(damage, encoding="utf-8")
    assert History.of(bundle).records == {}
    record = {"part_s": float("nan"), "load_s": 1.0, "compile_s": 0.0, "peak_bytes": 1}
    write_record(path, {"unet cpu fp32 {}": record})
    assert History.of(bundle).records == {}
    TextToVideo.from_bundle(device="cpu")("a red circle", frames=1, width=32, height=32, steps=1)


@pytest.mark.slow
def test_the_command_promises_and_is_quiet_when_told(hb: Command, tmp_path: Path) -> None:
    arguments = ("hb-run", "a red circle", "-o", tmp_path / "a.gif", "--device", "cpu")
    size = ("--frames", "2", "--size", "32x32", "--steps", "1")
    first = hb(*arguments, *size)
    assert first.stderr.startswith("about ")
    assert "on cpu fp32" in first.stderr
    assert "(from an estimate)" in first.stderr
    assert hb(*arguments, *size, "--quiet").stderr == ""
    done = hb(*arguments, *size, "--json", "--verbose")
    assert "(from earlier videos)" in done.stderr
    assert "memory: at most" in done.stderr
    entries = json.loads(done.stdout)
    assert entries["promise"]["source"] == "earlier videos"
    assert entries["memory"]["peak_bytes"] > entries["memory"]["planned_bytes"]["unet"] / 2
    assert entries["memory"]["limit_bytes"] > entries["memory"]["predicted_peak_bytes"]


def test_a_claim_counts_while_its_process_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        mark = _mark_of(other.pid)
        folder = state_directory("memory")
        write_record(folder / f"{mark}.json", {"bytes": 3 << 30, "since": time.time() - 5})
        claim = Claim()
        claim.set(1 << 30)
        held, taken = claim.before()
        assert 0 < held < 1 << 30
        assert held + taken == 3 << 30
        other.kill()
    assert claim.before() == (0, 0)
    assert [path.stem for path in folder.glob("*.json")] == [process_mark()]
    claim.drop()
    assert not list(folder.glob("*.json"))


def test_the_second_video_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "cap", property(lambda _: 600 << 20))
    monkeypatch.setattr(stages_module, "_TURN_S", 0.05)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        path = state_directory("memory") / f"{_mark_of(other.pid)}.json"
        write_record(path, {"bytes": 560 << 20, "since": time.time() - 5})
        heard = list[str]()

        def hear(text: str) -> None:
            heard.append(text)
            other.kill()

        pipeline = TextToVideo.from_bundle(device="cpu", notify=hear)
        pipeline("a red circle", frames=2, width=32, height=32, steps=1)
    assert heard[0].startswith("waiting for videos that other processes are making")
    monkeypatch.setattr(Planner, "cap", property(lambda _: 20 << 20))
    with pytest.raises(RequestError, match="that this machine or container has free"):
        pipeline("a red circle", frames=2, width=32, height=32, steps=1)
    assert not list(path.parent.glob("*.json"))


def test_what_others_hold_in_a_container_is_not_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/box",
        "sys/fs/cgroup/box/memory.max": "1000",
        "sys/fs/cgroup/box/memory.current": "700",
        "sys/fs/cgroup/box/memory.stat": "anon 5\ninactive_file 100\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    assert container_bytes(tmp_path, own=150) == 1000 - (700 - 100 - 150)
    assert container_bytes(tmp_path, own=900) == 1000


def _mark_of(process: int) -> str:
    import psutil

    started = int(psutil.Process(process).create_time())
    return f"{process_mark().split('-')[0]}-{process}-{started}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
def test_a_terminal_shows_a_bar_with_the_time_left(tmp_path: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    arguments = ["a red circle", "-o", str(tmp_path / "a.gif"), "--device", "cpu"]
    command = [sys.executable, "-c", "from hummingbird_edge.runtime.cli import main; main()"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=follower) as made:
        os.close(follower)
        shown = b""
        with suppress(OSError):  # the other end was closed
            while piece := os.read(leader, 4096):
                shown += piece
        assert made.wait() == 0
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))
    assert "about " in text
    assert "unet 4/4 on cpu" in text
    assert " s left" in text
