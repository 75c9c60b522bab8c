"""From a folder of videos to clips: what is kept, what is dropped, and why."""

import inspect
import json
import os
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.commands import videos
from hummingbird_edge.distill.curation import curate
from hummingbird_edge.distill.curation.candidate import SIDE, Candidate
from hummingbird_edge.distill.curation.curate import (
    curate_folder,
    decide,
    read_kept,
    score_folder,
)
from hummingbird_edge.distill.curation.duplicates import BITS, find_copies
from hummingbird_edge.distill.curation.enrich import TemplateEnricher
from hummingbird_edge.distill.curation.filters import (
    FAULTS,
    Thresholds,
    measure_motion,
    measure_quality,
)
from hummingbird_edge.distill.curation.report import Report
from hummingbird_edge.distill.curation.scenes import MIN_FRAMES, find_scenes, read_scenes
from hummingbird_edge.distill.curation.scores import ScoreTable
from hummingbird_edge.distill.curation.shards import Pack
from hummingbird_edge.distill.curation.videos import MAX_CAPTIONS, MAX_TEXT, find_videos
from hummingbird_edge.distill.data.frames import MAX_PIXELS, opened_video, read_frames
from hummingbird_edge.distill.data.storage import Folder
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import FULL, Scene
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.files import lock
from hummingbird_edge.runtime.media.video import write_video
from tests.test_frames import all_frames, numbered, write_mkv

pytestmark = pytest.mark.slow  # filters and captions videos

Frames = NDArray[np.uint8]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def clip_of(motion: str, colour: str = "red") -> Frames:
    scene = Scene.of(colour, "star", "large", motion, "pink")
    frames = render([scene], FULL, torch.Generator().manual_seed(0))[0]
    return (frames.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8).repeat(3, 1).repeat(3, 2)


def texture(side: int = 400) -> Frames:
    """Return a busy picture (H, W, 3): smooth noise at several scales."""
    rng = np.random.default_rng(0)
    picture = np.zeros((side, side))
    for cells in (10, 20, 40):
        coarse = rng.random((cells, cells))
        picture += np.kron(coarse, np.ones((side // cells, side // cells)))
    picture = picture / picture.max()
    return (np.stack([picture, picture**2, 1 - picture], -1) * 255).astype(np.uint8)


def zoomed(holds_subject: bool) -> Frames:
    """Zoom into a texture; a dolly zoom holds a disc in the middle at its size."""
    from PIL import Image

    picture, frames = texture(), []
    rows, columns = np.mgrid[:192, :192]
    middle = np.hypot(rows - 96, columns - 96) < 40
    for t in range(16):
        reach = int(200 - 6 * t)
        part = Image.fromarray(picture[200 - reach : 200 + reach, 200 - reach : 200 + reach])
        frame = np.array(part.resize((192, 192)))
        if holds_subject:
            still = np.array(Image.fromarray(picture).resize((192, 192)))
            frame[middle] = still[middle]
        frames.append(frame)
    return np.stack(frames)


def write(path: Path, frames: Frames, caption: str | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    write_video(path, frames, 8, {})
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def verdict(frames: Frames) -> str:
    """Return why a clip of these square frames would be dropped."""
    import cv2

    small = np.stack([cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in frames])
    clip = Candidate("a.mp4", "a.mp4", "1", ("a clip",), frames=small.tobytes())
    for measure in (measure_quality, measure_motion):
        (clip,) = measure(clip)
    return Thresholds().fault(clip)


def test_smooth_clips_pass_and_faults_are_named() -> None:
    for motion in ("right", "bouncing", "growing", "spinning"):
        assert verdict(clip_of(motion)) == "", motion
    assert verdict(zoomed(holds_subject=True)) == "dolly zoom"
    assert verdict(zoomed(holds_subject=False)) == ""
    rng = np.random.default_rng(0)
    shifts = rng.integers(-30, 30, (16, 2))
    shaken = np.stack([np.roll(texture()[:192, :192], tuple(s), (0, 1)) for s in shifts])
    assert verdict(shaken) == "motion not smooth"
    assert verdict(np.full((16, 192, 192, 3), 90, np.uint8)) == "low quality"
    assert verdict(np.stack([texture()[:192, :192]] * 16)) == "static"


def test_colours_of_one_brightness_can_be_seen() -> None:
    frames = np.full((16, 192, 192, 3), 127, np.uint8)
    for number, frame in enumerate(frames):
        frame[70:120, 40 + 4 * number : 90 + 4 * number] = (255, 126, 0)
    assert verdict(frames) == ""


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_tiny_video_has_no_quality(side: int) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (16, SIDE, SIDE, 3), np.uint8)
    clip = Candidate("a.gif", "", "", width=side, height=side, frames=frames.tobytes())
    (measured,) = measure_quality(clip)
    assert 0 <= measured.quality < Thresholds().quality


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    write(folder / "a.mp4", clip_of("right"), "A red star moving right.")
    write(folder / "b.gif", clip_of("up", "blue"), "a blue star rises")
    write(folder / "copy.mp4", clip_of("right"), "the same again")
    write(folder / "silent.mp4", clip_of("left"))
    write(folder / "flat.mp4", np.full((16, 96, 96, 3), 90, np.uint8), "nothing")
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "broken.txt").write_text("a broken file", encoding="utf-8")
    (folder / "notes.md").write_text("no video", encoding="utf-8")
    return folder


def test_a_folder_is_filtered_and_enriched(folder: Path, tmp_path: Path) -> None:
    report = curate_folder(folder, tmp_path / "out", TemplateEnricher(), Thresholds())
    lines = (tmp_path / "out" / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    kept = {Path(entry["file"]).name: entry for entry in map(json.loads, lines)}
    assert set(kept) == {"a.mp4", "b.gif"}
    assert kept["a.mp4"]["captions"][:2] == [
        "A red star moving right.",
        "a video of a red star moving right",
    ]
    assert "start" not in kept["a.mp4"]
    dropped = json.loads((tmp_path / "out" / "dropped.json").read_text(encoding="utf-8"))
    assert {entry["file"]: (entry["reason"]) for entry in dropped} == {
        "broken.mp4": "unreadable",
        "copy.mp4": "copy of another",
        "flat.mp4": "low quality",
        "silent.mp4": "no caption",
    }
    assert {each["detail"] for each in dropped if each["file"] == "copy.mp4"} == {"of a.mp4"}
    assert isinstance(report, Report)
    assert "| kept | 2 |" in report.table()
    assert "| dropped: no caption | 1 |" in report.table()


def test_statistics_say_what_each_stage_did(folder: Path, tmp_path: Path) -> None:
    curate_folder(folder, tmp_path / "out", TemplateEnricher(), Thresholds())
    found = json.loads((tmp_path / "out" / "statistics.json").read_text(encoding="utf-8"))
    assert (found["videos"], found["clips"], found["kept"]) == (6, 6, 2)
    assert [each["stage"] for each in found["scoring"]] == [
        "read",
        "quality",
        "motion",
        "fingerprint",
    ]
    assert all(each["seconds"] > 0 for each in found["scoring"])
    passed = {each["fault"]: (each["clips"], each["passed"]) for each in found["filters"]}
    assert list(passed) == list(FAULTS)
    assert passed["no caption"] == (6, 5)
    assert passed["copy of another"] == (3, 2)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it fail that a video is read."""

    def read(*_: object) -> None:
        raise AssertionError("a video was read")

    monkeypatch.setattr("hummingbird_edge.distill.curation.scenes.opened_video", read)


def texts_of(folder: Path) -> dict[str, str]:
    return {
        name: (folder / name).read_text(encoding="utf-8") for name in ("kept.jsonl", "dropped.json")
    }


def test_a_run_that_was_stopped_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it has not measured yet: nothing is read twice."""
    curate_folder(folder, tmp_path / "whole", TemplateEnricher(), Thresholds())
    monkeypatch.setattr(curate, "BATCH", 1)
    out, seen, examined = tmp_path / "out", list[tuple[int, int]](), list[str]()

    def stop(done: int, count: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate_folder(folder, out, TemplateEnricher(), Thresholds(), stop)
    assert {path.name for path in out.iterdir()} == {"part-00000.parquet", "running.sqlite"}

    def counted(video: str) -> object:
        examined.append(Path(video).name)
        return opened_video(video)

    monkeypatch.setattr("hummingbird_edge.distill.curation.scenes.opened_video", counted)
    curate_folder(folder, out, TemplateEnricher(), Thresholds(), lambda *done: seen.append(done))
    assert examined == ["copy.mp4", "flat.mp4", "silent.mp4"]
    assert seen == [(done, 6) for done in range(3, 7)]
    assert texts_of(out) == texts_of(tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == {
        "clips.parquet",
        "kept.jsonl",
        "dropped.json",
        "statistics.json",
        "running.sqlite",
    }


@dataclass(frozen=True)
class Interrupted:
    """Enrich as templates do, but stop at the caption of `at`, as Ctrl-C does."""

    at: str

    def __call__(self, caption: str) -> tuple[str, ...]:
        if self.at in caption:
            raise KeyboardInterrupt
        return TemplateEnricher()(caption)

    def __str__(self) -> str:
        return str(TemplateEnricher())


def test_captions_are_not_asked_for_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curate, "CAPTIONED", 1)
    with pytest.raises(KeyboardInterrupt):
        curate_folder(folder, tmp_path / "out", Interrupted("blue"), Thresholds())
    assert not (tmp_path / "out" / "kept.jsonl").exists()
    forbid_reading(monkeypatch)
    found = curate_folder(folder, tmp_path / "out", Interrupted("Red"), Thresholds())
    assert [len(clip.enriched) for clip in found.kept] == [4, 4]


def test_other_thresholds_read_nothing_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    curate_folder(folder, out, TemplateEnricher(), Thresholds())
    before = texts_of(out)
    forbid_reading(monkeypatch)
    with pytest.raises(RequestError, match="3 motion not smooth"):
        curate_folder(folder, out, TemplateEnricher(), Thresholds(smoothness=2.0))
    assert not (out / "kept.jsonl").exists()
    curate_folder(folder, out, TemplateEnricher(), Thresholds())
    assert texts_of(out) == before


def test_a_video_that_changed_is_measured_anew(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate_folder(folder, out, TemplateEnricher(), Thresholds())
    write(folder / "a.mp4", clip_of("down", "green"))
    (folder / "silent.txt").write_text("a red star moving left", encoding="utf-8")
    (folder / "b.gif").unlink()
    curate_folder(folder, out, TemplateEnricher(), Thresholds())
    assert [Path(clip.file).name for clip in read_kept(out)] == ["a.mp4", "copy.mp4", "silent.mp4"]


def test_scenes_of_an_old_version_are_forgotten(tmp_path: Path) -> None:
    """Where a stopped run had read the new one, which has fewer."""
    table = ScoreTable(Folder.at(tmp_path))
    old = [Candidate("a.mp4", "", "1", scene=n, is_last=n == 2) for n in range(3)]
    new = Candidate("a.mp4", "", "2")
    table.add([*old, new])
    assert table.keep([new]) == []
    assert list(table.clips.values()) == [new]


def test_parts_may_be_more_than_five_digits_count(tmp_path: Path) -> None:
    """And the last one counts."""
    folder, clip = Folder.at(tmp_path), Candidate("a.mp4", "", "1")
    for number in (99_999, 100_000):
        with ScoreTable(folder) as table:
            table.add([clip.but(start=number)])
        if number == 99_999:
            (tmp_path / "part-00000.parquet").rename(tmp_path / "part-99999.parquet")
    assert folder.exists("part-100000.parquet")
    assert ScoreTable(folder).clips["a.mp4", 0].start == 100_000


def test_scores_alone_drop_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    scored = score_folder(folder, out)
    assert len(scored.clips) == 6
    assert "| smoothness |" in scored.measures()
    written = {"clips.parquet", "statistics.json", "running.sqlite"}
    assert {path.name for path in out.iterdir()} == written
    forbid_reading(monkeypatch)
    assert len(curate_folder(folder, out, TemplateEnricher(), Thresholds()).kept) == 2
    assert score_folder(folder, out).reasons() == []
    assert json.loads((out / "statistics.json").read_text())["kept"] == 6


def test_a_damaged_table_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.parquet").write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=r"clips.parquet is not a table of clips .*: delete it"):
        curate_folder(folder, tmp_path, TemplateEnricher(), Thresholds())


def test_folders_may_be_anywhere_that_fsspec_reaches(folder: Path, tmp_path: Path) -> None:
    """Here in memory; clips come back from there for training too."""
    source, out = Folder.at("memory://bucket/videos"), "memory://bucket/out"
    for path in folder.iterdir():
        source.write(path.name, path.read_bytes())
    curate_folder(str(source), out, TemplateEnricher(), Thresholds(), pack=True)
    kept = read_kept(out)
    assert [clip.file for clip in kept] == [source.location("a.mp4"), source.location("b.gif")]
    for clip in kept:
        assert clip.file.startswith("memory://")
        assert read_frames(clip.file, 4, 64, 64, clip.part).shape == (4, 64, 64, 3)
    assert Folder.at(out).exists("shards/00000.tar")
    for place in ("nosuch://bucket/videos", "memory://bucket/none"):
        with pytest.raises(RequestError, match=r"cannot be opened|there is no folder"):
            find_videos(Folder.at(place))


def test_a_video_is_split_at_its_cuts(tmp_path: Path) -> None:
    """And each scene is a clip of its own, for training and in shards."""
    parts = [clip_of(m, c).repeat(2, 0) for m, c in (("right", "red"), ("up", "blue"))]
    parts.insert(1, texture()[None, :192, :192].repeat(9, 0))  # too short to be kept
    write(tmp_path / "videos" / "a.mp4", np.concatenate(parts), "two stars")
    found = curate_folder(
        tmp_path / "videos", tmp_path / "out", TemplateEnricher(), Thresholds(), pack=True
    )
    assert [(clip.label, clip.verdict) for clip in found.clips] == [
        ("a.mp4#0-32", ""),
        ("a.mp4#32-41", "too short"),
        ("a.mp4#41-73", ""),
    ]
    _, second = read_kept(tmp_path / "out")
    assert second.part == slice(41, 73)
    every = all_frames(tmp_path / "videos" / "a.mp4")
    chosen = 41 + np.linspace(0, 31, 5).round().astype(int)
    assert np.array_equal(read_frames(second.file, 5, 192, 192, second.part), every[chosen])
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        assert tar.getnames() == [f"0000000{n}{end}" for n in (0, 1) for end in SAMPLE]
        tar.extractall(tmp_path, filter="data")
    cut = all_frames(tmp_path / "00000001.mp4")
    assert cut.shape == (32, 192, 192, 3)
    assert np.abs(cut.astype(int) - every[41:]).mean() < 2
    assert json.loads((tmp_path / "00000001.json").read_text())["start"] == 41
    assert (tmp_path / "00000000.txt").read_text().startswith("two stars\na video of two stars\n")


SAMPLE = (".mp4", ".txt", ".json")


def test_shards_are_made_once_and_go_with_their_clips(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("curate", "shards"):
        monkeypatch.setattr(f"hummingbird_edge.distill.curation.{name}.CLIPS_PER_SHARD", 1)

    def packed() -> dict[str, tuple[bytes, int]]:
        curate_folder(folder, tmp_path / "out", TemplateEnricher(), Thresholds(), pack=True)
        files = sorted((tmp_path / "out" / "shards").glob("*.tar"))
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    first = packed()
    assert list(first) == ["00000.tar", "00001.tar"]
    assert packed() == first
    (folder / "a.mp4").unlink()
    (folder / "copy.mp4").unlink()
    after = packed()
    assert list(after) == ["00000.tar"]
    assert after["00000.tar"] != first["00000.tar"]


def test_a_shard_that_a_kill_left_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Folder.at(tmp_path / "out")
    one, other = (
        [Candidate(name, str(folder / name), name, enriched=(name,))] for name in ("a.mp4", "b.gif")
    )
    list(Pack(out)(one))
    first = out.read("shards/00000.tar")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Folder, "write", die)
        with pytest.raises(KeyboardInterrupt):
            list(Pack(out)(other))
    assert out.read("shards/00000.tar") != first
    list(Pack(out)(one))
    assert out.read("shards/00000.tar") == first


def test_two_commands_do_not_write_to_one_folder(
    folder: Path, tmp_path: Path, hb_forked: Command
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    held = lock(out / "running.sqlite")
    assert held is not None
    for options in ((), ("--score-only",)):
        done = hb_forked("hb-distill", "curate", folder, out, *options)
        assert done.returncode, done.stdout
        assert done.stderr.startswith(f"hb-distill: another command works on {out}: wait for it")
    held.close()
    assert [path.name for path in out.iterdir()] == ["running.sqlite"]


def test_a_long_video_is_read_in_little_memory(tmp_path: Path) -> None:
    """Few frames of it are kept, evenly spaced ones."""
    numbered(tmp_path / "long.mp4", 1500)
    tracemalloc.start()
    try:
        with opened_video(tmp_path / "long.mp4") as (header, pictures):
            (scene,) = find_scenes(header, pictures)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (header.width, header.height, header.fps) == (48, 32, 24.0)
    assert (scene.start, scene.stop, scene.stride) == (0, 1500, 64)
    assert MIN_FRAMES <= len(scene.frames) == 24 < 2 * MIN_FRAMES
    assert peak < 60 * scene.frames[0].nbytes


def test_a_video_that_ends_in_noise_keeps_what_came_before(tmp_path: Path) -> None:
    parts = [clip_of(m, c).repeat(2, 0) for m, c in (("right", "red"), ("up", "blue"))]
    path = tmp_path / "a.mkv"
    write_mkv(path, np.concatenate(parts))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    clips = list(read_scenes(Candidate("a.mkv", str(path), "1", ("a",))))
    assert (clips[0].start, clips[0].stop, clips[0].fault) == (0, 32, "")
    assert [clip.is_last for clip in clips] == [False] * (len(clips) - 1) + [True]


def fingerprints(count: int, rng: np.random.Generator) -> list[bytes]:
    """Return chains of near copies: each is another one with some bits turned."""
    found = [rng.integers(0, 2, BITS)]
    for _ in range(count - 1):
        bits = found[rng.integers(len(found))].copy()
        bits[rng.integers(0, BITS, rng.integers(0, 18))] ^= 1
        found.append(rng.integers(0, 2, BITS) if rng.random() < 0.2 else bits)
    return [np.packbits(bits).tobytes() for bits in found]


def test_copies_are_those_that_a_look_at_every_pair_finds() -> None:
    for seed in range(5):
        prints = fingerprints(150, np.random.default_rng(seed))
        numbers = [int.from_bytes(mark, "big") for mark in prints]
        expected: dict[int, int] = {}
        for index, number in enumerate(numbers):
            for kept in range(index):
                if kept not in expected and (number ^ numbers[kept]).bit_count() < 12:
                    expected[index] = kept
                    break
        assert 10 < len(expected) < 140
        assert find_copies(prints, 12) == expected
    assert find_copies([], 12) == {}


def test_many_near_copies_take_little_time_and_memory() -> None:
    marks = np.zeros((5_000, BITS), np.uint8)
    marks[np.arange(len(marks)), np.arange(len(marks)) % BITS] = 1
    prints = [np.packbits(mark).tobytes() for mark in marks]
    tracemalloc.start()
    try:
        copies = find_copies(prints, 12)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert copies == dict.fromkeys(range(1, len(prints)), 0)
    assert peak < 3 * marks.nbytes


def test_verdicts_depend_on_no_order() -> None:
    rng = np.random.default_rng(0)
    good = dict.fromkeys(("quality", "smoothness", "change"), 1.0)
    clips = [
        Candidate(f"{n:03d}.mp4", "", "1", ("a",), fingerprint=mark).but(**good)
        for n, mark in enumerate(fingerprints(200, rng))
    ]
    decided = decide(clips, Thresholds())
    assert 10 < sum(clip.verdict == "copy of another" for clip in decided) < 190
    for _ in range(3):
        rng.shuffle(clips)
        assert decide(clips, Thresholds()) == decided


def test_captions_come_from_metadata_too(folder: Path) -> None:
    entry = {"file_name": "silent.mp4", "text": "a red star moving left"}
    (folder / "metadata.jsonl").write_text(json.dumps(entry) + "\n")
    found = {video.name: video for video in find_videos(Folder.at(folder))}
    assert found["silent.mp4"].captions == ("a red star moving left",)
    assert next(read_scenes(found["b.gif"])).captions == ("a blue star rises",)
    entry["text"] = "one line\u2028in two parts"
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    (folder / "metadata.jsonl").write_text(line * (MAX_CAPTIONS + 1), encoding="utf-8")
    found = {video.name: video for video in find_videos(Folder.at(folder))}
    assert found["silent.mp4"].captions == (entry["text"],) * MAX_CAPTIONS


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{}", r"is not .* \('file_name'\): correct it"),
        ('{"file_name": "a.mp4", "text": "\\ud83d"}', "is not .*surrogates"),
        ("[" * 60_000, "is not .*recursion"),
        (" " * 2 * MAX_TEXT, f"has more than {MAX_TEXT} bytes: shorten it"),
    ],
    ids=["empty", "surrogate", "deep", "long"],
)
@pytest.mark.parametrize("place", ["", "memory://"])
def test_metadata_that_is_none_is_refused(tmp_path: Path, line: str, said: str, place: str) -> None:
    folder = Folder.at(f"{place}{tmp_path}")
    folder.write("metadata.jsonl", b"\n" + line.encode())
    with pytest.raises(RequestError, match=f"metadata.jsonl line 2 {said}"):
        find_videos(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux alone")
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).touch()
    with pytest.raises(RequestError, match=r"udcff.mp4' is not UTF-8: rename it") as refused:
        find_videos(Folder.at(tmp_path))
    str(refused.value).encode()


def test_a_caption_file_of_any_length_takes_little_memory(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("long " * MAX_TEXT, encoding="utf-8")
    (folder / "copy.txt").write_text("a\n" * (MAX_CAPTIONS + 1), encoding="utf-8")
    found = curate_folder(folder, tmp_path / "out", TemplateEnricher(), Thresholds())
    clips = {clip.name: clip for clip in found.clips}
    assert clips["a.mp4"].detail == f"its captions have more than {MAX_TEXT} bytes"
    assert clips["copy.mp4"].captions == ("a",) * MAX_CAPTIONS


def test_frames_are_spread_and_cut_to_the_middle(folder: Path) -> None:
    frames = read_frames(folder / "b.gif", 8, 64, 32)
    assert frames.shape == (8, 32, 64, 3)
    with pytest.raises(ValueError, match="16 frames, 17 are needed"):
        read_frames(folder / "b.gif", 17, 64, 64)


def gif_header(width: int, height: int) -> bytes:
    """Return a GIF of one pixel whose header claims a screen of any size."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + image + b";"


def test_files_that_are_traps_are_dropped_as_unreadable(folder: Path, tmp_path: Path) -> None:
    numbered(tmp_path / "a.avi", 20)
    coded = (tmp_path / "a.avi").read_bytes()
    sizes = coded.index(b"strf") + 12  # where width and height stand
    traps = {
        "huge.gif": gif_header(60_000, 60_000),
        "large.gif": gif_header(MAX_PIXELS // 8192, 8193),
        "thin.gif": gif_header(1, 60_000),
        "list.mp4": b"ffconcat version 1.0\nfile 'a.mp4'\n",
        "unknown.avi": coded.replace(b"H264", b"QZQZ"),
        "empty.avi": coded[:sizes] + bytes(8) + coded[sizes + 8 : coded.index(b"movi") + 4],
        "script.gif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    }
    for name, content in traps.items():
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text("a trap")
    curate_folder(folder, tmp_path / "out", TemplateEnricher(), Thresholds())
    dropped = json.loads((tmp_path / "out" / "dropped.json").read_text())
    reasons = {entry["file"]: (entry["reason"], entry["detail"]) for entry in dropped}
    assert {reasons[name][0] for name in traps} == {"unreadable"}
    assert "8192x8193 pixels" in reasons["large.gif"][1]
    assert "a coding that is not known" in reasons["unknown.avi"][1]
    assert "0x0 pixels" in reasons["empty.avi"][1]


def test_a_picture_cut_short_anywhere_is_unreadable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), np.uint8)
    write(tmp_path / "a.gif", noise)
    whole = (tmp_path / "a.gif").read_bytes()
    for length in range(len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.gif").write_bytes(whole[:length])
        with suppress(ValueError):
            read_frames(tmp_path / "a.gif", 2, 16, 16)


def test_a_file_that_a_library_fails_at_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("hummingbird_edge.distill.curation.scenes.opened_video", fail)
    (clip,) = read_scenes(Candidate("a.mp4", str(tmp_path / "a.mp4"), "1", ("a",)))
    assert (clip.fault, clip.detail) == ("unreadable", "ZeroDivisionError")


def test_bad_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RequestError, match="holds no videos"):
        find_videos(Folder.at(empty))
    with pytest.raises(RequestError, match="there is no folder"):
        find_videos(Folder.at(tmp_path / "nowhere"))
    write(empty / "silent.mp4", clip_of("left"))
    with pytest.raises(
        RequestError, match=r"is fit to train on \(1 no caption; silent.mp4: no NAME.txt"
    ):
        curate_folder(empty, tmp_path / "out", TemplateEnricher(), Thresholds())
    assert not (tmp_path / "out" / "kept.jsonl").exists()
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="choose another"):
        curate_folder(folder, tmp_path / "file", TemplateEnricher(), Thresholds())


def test_the_command_says_it_in_one_sentence(
    hb_forked: Command, folder: Path, tmp_path: Path
) -> None:
    done = hb_forked("hb-distill", "curate", folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "| kept | 2 |" in done.stdout
    for path in (tmp_path / "nowhere", tmp_path / "out"):
        done = hb_forked("hb-distill", "curate", path, tmp_path / "other")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("hb-distill: ")
        assert not (tmp_path / "other").exists()


def test_the_command_measures_alone_and_packs(
    hb_forked: Command, folder: Path, tmp_path: Path
) -> None:
    done = hb_forked("hb-distill", "curate", folder, tmp_path / "out", "--score-only")
    assert done.returncode == 0, done.stderr
    assert "| smoothness |" in done.stdout
    assert not (tmp_path / "out" / "kept.jsonl").exists()
    done = hb_forked("hb-distill", "curate", folder, tmp_path / "out", "--pack")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "shards" / "00000.tar").exists()
    defaults = inspect.signature(videos.curate).parameters
    limits = Thresholds()
    assert defaults["min_quality"].default == limits.quality
    assert defaults["min_smoothness"].default == limits.smoothness
