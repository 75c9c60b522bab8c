"""Nothing is lost: a video that was interrupted goes on, and ends as the same file."""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.cli.jobs import job_to_decode, job_to_resume
from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.media.latents import LatentsFile, read_latents, write_latents
from hummingbird_edge.runtime.media.unfinished import Kept, find_unfinished, list_unfinished
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request
from tests.conftest import SHAPES, command_line

Command = Callable[..., "subprocess.CompletedProcess[str]"]
BUNDLE = ("--bundle", str(SHAPES))
VIDEO = ("a blue star spinning", *BUNDLE, "--steps", "12", "--device", "cpu", "-o", "a.webp")
SETTINGS = {"prompt": "a cat", "steps": 4, "decoder": "full"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUMMINGBIRD_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "unfinished"


def kept(taken: int = 1, warn: Callable[[str], None] = lambda _: None) -> Kept:
    file = Kept({"output": "a.mp4"}, warn)
    file.keep(SETTINGS, taken, np.ones((1, 4, 2, 3, 3), np.float32))
    return file


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals end a process elsewhere")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_video_goes_on_and_is_the_same(
    hb: Command, state: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    whole = hb("hb-run", *VIDEO, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    truth = (tmp_path / "a.webp").read_bytes()
    assert list(state.iterdir()) == []
    draw = random.Random(stop)
    for index in range(2):
        (tmp_path / "a.webp").unlink()
        started = subprocess.Popen(
            command_line("hb-run", *VIDEO), cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        while not state.is_dir() or not list(state.glob("*.latents")):
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 1.2))
        started.send_signal(stop)
        _, errors = started.communicate(timeout=60)
        if started.returncode == 0:
            continue  # it was faster
        if stop != signal.SIGKILL and list_unfinished():
            assert "steps are kept: hb-run --resume goes on there" in errors
        resumed = hb("hb-run", *(("--resume",) if list_unfinished() else VIDEO), cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert (tmp_path / "a.webp").read_bytes() == truth, index
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.webp", "state"]
        assert list(state.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals end a process elsewhere")
def test_a_video_goes_on_on_another_device(hb: Command, state: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    whole = TextToVideo.from_bundle(SHAPES, device="cpu")("a blue star spinning", steps=12)
    started = subprocess.Popen(command_line("hb-run", *VIDEO), cwd=tmp_path, text=True)
    while not [each for each in list_unfinished() if each.file.taken >= 2]:
        assert started.poll() is None
        time.sleep(0.01)
    started.kill()
    started.wait()
    done = hb("hb-run", "--resume", "--device", "openvino", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)["settings"]
    assert settings["devices"]["unet"] == "openvino"
    assert list(state.iterdir()) == []
    with Image.open(tmp_path / "a.webp") as file:  # lossless
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
    found = np.stack(frames).astype(np.float64)
    assert np.square(found - whole.frames).mean() < 255**2 / 10**4


@pytest.mark.slow
def test_latents_are_decoded_again(hb: Command, tmp_path: Path) -> None:
    short = (*VIDEO[:1], "--steps", "2", "--device", "cpu")
    done = hb("hb-run", *short, "-o", "a.webp", "--save-latents", "a.latents", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = hb("hb-run", "--decode", "a.latents", "--device", "cpu", "-o", "b.webp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    promised, told = done.stderr.splitlines()
    assert promised.startswith("about ")
    frames = Bundle.open(BUILTIN).manifest.defaults.frames
    assert told == f"vae_decoder {frames}/{frames} on cpu"
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()


@pytest.mark.slow
def test_the_sampler_goes_on_where_it_was() -> None:
    pipeline = TextToVideo.from_bundle(device="cpu")
    request = Request.for_model(pipeline.manifest, "a red circle", seed=3, steps=4)
    parts = [p for p in pipeline.generate(request) if p.latents is not None or p.video]
    for part in parts[:-1]:
        assert part.latents is not None
        *_, last = pipeline.generate(request, resume=(part.index, part.latents))
        assert last.video is not None
        assert parts[-1].video is not None
        np.testing.assert_array_equal(last.video.frames, parts[-1].video.frames)


def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("HUMMINGBIRD_STATE", str(tmp_path / "file"))
    heard: list[str] = []
    file = kept(warn=heard.append)
    file.keep(SETTINGS, 2, None)
    file.leave()
    file.remove()
    assert [text.partition(",")[0] for text in heard] == ["the video is not kept for --resume"]


def test_the_newest_that_nobody_makes_is_resumed(state: Path) -> None:
    first = kept()
    with pytest.raises(OutputError, match="nothing to resume"):
        find_unfinished()  # this process makes it
    with pytest.raises(OutputError, match="another hb-run is making"):
        find_unfinished(first.path)
    file = read_latents(first.path)
    for index in range(25):
        origin = {**file.origin, "process": f"{'0' * 8}-1-{index}" if index == 24 else "gone"}
        path = state / f"{index:02d}.latents"
        write_latents(path, LatentsFile({**SETTINGS, "index": index}, 2, file.latents, origin))
        os.utime(path, (index, index))
    assert find_unfinished()[1].settings["index"] == 23  # 24 is another machine's
    first.keep(SETTINGS, 2, None)
    assert len(list(state.iterdir())) <= 21


def test_a_file_from_elsewhere_names_no_path(state: Path, tmp_path: Path) -> None:
    """Else a file that somebody sends could have any of the user's files replaced."""
    own, foreign = state / "a.latents", tmp_path / "a.latents"
    file = LatentsFile(SETTINGS, 0, np.zeros(0, np.float32), {"output": "/home/me/diary.mp4"})
    for path in (own, foreign):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_latents(path, file)
    assert job_to_resume(own, None).output == Path("/home/me/diary.mp4")
    assert job_to_resume(foreign, None).output == Path("out.mp4")
    found = job_to_decode(foreign, None).start
    assert found is not None
    assert found.origin == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], "holds no latents of this project, or is damaged"),
        (lambda raw: raw + b"0", "bytes of latents where"),
        (lambda raw: raw[:-1] + b"1", "its latents have another digest"),
        (lambda raw: raw.replace(b'"version": 1', b'"version": 9'), "its version is 9"),
        (lambda raw: raw.replace(b"[1, 4", b"[-1, 4"), "its shape is"),
        (lambda raw: raw.replace(b"[1, 4", b"[1e3, 4"), "its shape is"),
        (lambda raw: raw.replace(b'"taken": 1', b'"taken": true'), "it says True steps"),
        (lambda raw: b"[" * 100_000, "is damaged"),
        (lambda raw: b"", "is damaged"),
    ],
)
def test_damaged_files_are_refused(
    hb: Command, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "a.latents"
    write_latents(path, LatentsFile(SETTINGS, 1, np.ones((1, 4, 2, 3, 3), np.float32), {}))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(OutputError, match=message):
        read_latents(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "taken", "arguments", "code", "message"),
    [
        ({}, 1, ("--resume", "a.latents"), 1, "does not say its prompt and decoder"),
        ({"bundle_sha256": "0"}, 1, ("--resume", "a.latents"), 1, "another bundle was making"),
        ({"frames": "many"}, 1, ("--resume", "a.latents"), 2, "a setting is no number of its kind"),
        ({"width": 128}, 1, ("--resume", "a.latents"), 1, "holds latents of shape"),
        ({}, 1, ("--decode", "a.latents"), 2, "holds 1 of 4 steps: hb-run --resume"),
        ({}, 4, ("--decode", "a.latents", "--steps", "3"), 2, "--steps is fixed by the file"),
        ({}, 4, ("a cat", "--decode", "a.latents"), 2, "leave prompts out"),
        ({}, 4, ("--decode", "a.latents", "--resume"), 2, "give one of them"),
        ({}, 4, ("--resume",), 1, "there is nothing to resume in"),
        ({}, 4, ("--resume", "nowhere.latents"), 1, "there is no file nowhere.latents"),
    ],
)
def test_what_cannot_go_on_is_one_sentence(
    hb: Command,
    tmp_path: Path,
    settings: dict[str, object],
    taken: int,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    bundle = Bundle.open(BUILTIN)
    request = Request.for_model(bundle.manifest, "a cat", 7)
    latents = np.ones(request.latent_shape(bundle.manifest), np.float32)
    known = {**request.settings(), "bundle_sha256": bundle.digest}
    known = {} if "does not say" in message else {**known, **settings}
    write_latents(tmp_path / "a.latents", LatentsFile(known, taken, latents, {}))
    done = hb("hb-run", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "a.latents").exists()


@pytest.mark.slow
def test_a_resumed_video_keeps_its_threads_and_its_memory(
    hb: Command, state: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(BUILTIN)
    request = Request.for_model(bundle.manifest, "a cat", 7, steps=1)
    latents = np.ones(request.latent_shape(bundle.manifest), np.float32)
    known = {**request.settings(), "bundle_sha256": bundle.digest}
    origin = {"device": "cpu", "low_power": True, "max_memory": "1500MB", "output": "a.webp"}
    state.mkdir(parents=True)
    write_latents(state / "a.latents", LatentsFile(known, 1, latents, origin))
    done = hb("hb-run", "--resume", "--json", "--verbose", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"vae_decoder: cpu fp32, \d+ threads? \(", done.stderr)
    assert json.loads(done.stdout)["memory"]["limit_bytes"] == 1_500_000_000


@pytest.mark.slow
def test_the_list_says_what_is_there(hb: Command, state: Path) -> None:
    kept(2)
    done = hb("hb-run", "--list-unfinished", "--json")
    (row,) = json.loads(done.stdout)
    assert (row["prompt"], row["taken"], row["steps"], row["running"]) == ("a cat", 2, 4, True)
    assert "being made" in hb("hb-run", "--list-unfinished").stdout
