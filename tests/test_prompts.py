"""Several videos by one command: the same files as by a command each, sooner."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hummingbird_edge.runtime.cli.background import Background, Stopped
from hummingbird_edge.runtime.cli.pipelining import decoding_elsewhere
from hummingbird_edge.runtime.engines import worker
from hummingbird_edge.runtime.media.unfinished import list_unfinished
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement import stages
from hummingbird_edge.runtime.request import Request
from tests.conftest import SHAPES, command_line

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PROMPTS = ["a red circle moving right", "a blue star spinning", "a green square moving up"]
NAMES = ["out-001.mp4", "out-002.mp4", "out-003.mp4"]
TWO_DEVICES = "text=openvino,unet=openvino,vae=cpu"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUMMINGBIRD_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "unfinished"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS), encoding="utf-8")
    return path


def single_videos(folder: Path, device: str, steps: int = 4) -> list[bytes]:
    """Make each video by itself, and return the files."""
    found = []
    for prompt, name in zip(PROMPTS, NAMES, strict=True):
        video = TextToVideo.from_bundle(SHAPES, device=device)(prompt, steps=steps)
        found.append(video.save(folder / f"single-{name}").read_bytes())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("device", "workers"), [("cpu", "gpu"), (TWO_DEVICES, "all")])
def test_the_files_are_those_of_single_runs(
    hb: Command,
    file: Path,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    workers: str,
) -> None:
    if "openvino" in device:
        pytest.importorskip("openvino")
    expected = single_videos(tmp_path, device)
    monkeypatch.setenv(worker.VARIABLE, workers)
    options = ("--prompts", file, "--bundle", SHAPES, "--device", device, "--json", "--verbose")
    done = hb("hb-run", *options, "-o", tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(entry["path"]).name for entry in made] == NAMES
    assert [(tmp_path / name).read_bytes() for name in NAMES] == expected
    for entry in made:
        assert set(entry["stages"]) == {"text_encoder", "unet", "vae_decoder"}
        assert set(entry["promise"]["stages"]) == set(entry["stages"])
        assert set(entry["memory"]["planned_bytes"]) == set(entry["stages"])
        assert len(entry["timings"]["unet_step_s"]) == 4
        assert min(entry["timings"]["vae_decoder_s"], entry["timings"]["text_encoder_s"]) > 0
    # Only the first video loads.
    assert set(made[0]["timings"]["load_s"]) == set(made[0]["stages"])
    assert made[2]["timings"]["load_s"] == {}
    assert done.stderr.count("memory: ") == 3
    assert list(state.iterdir()) == []


def test_another_device_decodes_where_both_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv(worker.VARIABLE, "all")
    cap = 2 * 10**9
    pipeline = TextToVideo.from_bundle(device=TWO_DEVICES, max_memory=cap)
    request = Request.for_model(pipeline.manifest, "a cat", 7)
    decoding = decoding_elsewhere(pipeline, request)
    assert decoding is not None
    assert pipeline.stages.planner.cap + decoding.stages.planner.cap <= cap
    small = TextToVideo.from_bundle(device=TWO_DEVICES, max_memory=400 * 10**6)
    assert decoding_elsewhere(small, request) is None
    assert small.stages.planner.cap == 400 * 10**6
    assert decoding_elsewhere(TextToVideo.from_bundle(device="cpu"), request) is None
    monkeypatch.setenv(worker.VARIABLE, "gpu")  # two engines, one CPU
    assert decoding_elsewhere(TextToVideo.from_bundle(device=TWO_DEVICES), request) is None


def _has_begun(prompt: str) -> bool:
    """Tell whether a step or more of this video is kept."""
    kept = [each.file for each in list_unfinished()]
    return any(file.taken > 0 and file.settings["prompt"] == prompt for file in kept)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals end a process elsewhere")
@pytest.mark.parametrize(
    ("stop", "device", "workers"),
    [
        ("SIGINT", "cpu", "gpu"),
        ("SIGKILL", "cpu", "gpu"),
        ("SIGTERM", TWO_DEVICES, "all"),
        ("SIGKILL", TWO_DEVICES, "all"),
    ],
)
def test_a_stop_leaves_what_can_go_on(
    hb: Command,
    file: Path,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: str,
    device: str,
    workers: str,
) -> None:
    if "openvino" in device:
        pytest.importorskip("openvino")
    expected = single_videos(tmp_path, device, steps=12)
    monkeypatch.setenv(worker.VARIABLE, workers)
    options = ("--prompts", file, "--bundle", SHAPES, "--device", device, "--steps", 12)
    output = ("-o", tmp_path / "out.mp4")
    with subprocess.Popen(
        command_line("hb-run", *map(str, (*options, *output))), stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline().strip() == str(tmp_path / NAMES[0])
        while not _has_begun(PROMPTS[1]):
            assert started.poll() is None
            time.sleep(0.01)
        started.send_signal(getattr(signal, stop))
        started.communicate(timeout=60)
    assert started.returncode != 0
    for _ in list_unfinished():
        done = hb("hb-run", "--resume")
        assert done.returncode == 0, done.stderr
    assert not list(state.iterdir())
    made = [name for name in NAMES if (tmp_path / name).exists()]
    assert made[:2] == NAMES[:2]
    for name, content in zip(made, expected, strict=False):
        assert (tmp_path / name).read_bytes() == content
    left = {entry.name for entry in tmp_path.iterdir()}
    assert not {name for name in left if name.startswith(".")}


@pytest.mark.slow
def test_what_cannot_be_written_ends_the_command(hb: Command, file: Path, tmp_path: Path) -> None:
    """The first video's folder goes away while it is made."""
    folder = tmp_path / "there"
    folder.mkdir()
    options = ("--prompts", file, "--device", "cpu", "-o", folder / "out.mp4", "--steps", 12)
    with subprocess.Popen(
        command_line("hb-run", *map(str, options)), stderr=subprocess.PIPE, text=True
    ) as started:
        while not list_unfinished():
            time.sleep(0.01)
        folder.rmdir()
        _, errors = started.communicate(timeout=60)
    assert started.returncode == 1
    assert "is not an existing folder" in errors
    assert "12 of 12 steps are kept: hb-run --resume goes on there" in errors
    assert "Traceback" not in errors


def test_pieces_follow_each_other_beside_the_caller() -> None:
    heard, may_end = list[int](), threading.Event()

    def wait() -> None:
        may_end.wait(10)
        heard.append(0)

    with Background(True) as background:
        background.run(wait)
        background.check()
        assert heard == []
        may_end.set()
        for number in (1, 2):
            background.run(partial(heard.append, number))
    assert heard == [0, 1, 2]
    with Background(False) as background:
        background.run(lambda: heard.append(threading.get_ident()))
    assert heard[-1] == threading.get_ident()


def _in_background(work: Callable[[Background], None], then: Callable[[Background], None]) -> None:
    with Background(True) as background:
        background.run(lambda: work(background))
        then(background)


def test_a_piece_that_fails_is_heard_of() -> None:
    def fail(_: Background) -> None:
        raise OSError("full")

    def wait(background: Background) -> None:
        while True:
            background.check()
            time.sleep(0.01)

    for then in (wait, lambda _: None):
        with pytest.raises(OSError, match="full"):
            _in_background(fail, then)


def test_a_stop_ends_the_piece_that_runs() -> None:
    ended = list[str]()

    def work(background: Background) -> None:
        try:
            while True:
                background.require_going_on()
                time.sleep(0.01)
        except Stopped:
            ended.append("stopped")

    def stop(_: Background) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _in_background(work, stop)
    assert ended == ["stopped"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep_loaded", "max_memory", "stays"),
    [(True, None, True), (False, None, False), (True, 10**10, True), (True, 320 * 10**6, False)],
)
def test_a_large_bundle_stays_loaded_where_it_fits(
    monkeypatch: pytest.MonkeyPatch, keep_loaded: bool, max_memory: int | None, stays: bool
) -> None:
    monkeypatch.setattr(stages, "_SMALL_BYTES", 0)
    pipeline = TextToVideo.from_bundle(device="cpu", keep_loaded=keep_loaded, max_memory=max_memory)
    first, second = (pipeline("a red circle", steps=1) for _ in range(2))
    assert set(first.timings.load_s) == {"text_encoder", "unet", "vae_decoder"}
    assert set(second.timings.load_s) == (set() if stays else set(first.timings.load_s))
    assert second.memory.predicted >= first.memory.predicted > 0
    monkeypatch.setattr(stages, "_SHARE", 0.0)
    third = pipeline("a red circle", steps=1)
    assert bool(third.timings.load_s) != (stays and max_memory is not None)
