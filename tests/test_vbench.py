"""VBench: names and seeds that the official code expects, its flicker, its totals, honest gaps.

The official package is 0.4 MB without its dependencies, of which its loading code and its flicker
need OpenCV and PyTorch alone; what else they import on the way is replaced by empty modules.
"""

import json
import os
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.vbench.dimensions import BY_NAME, DIMENSIONS, FLICKER
from hummingbird_edge.benchmarks.lib.vbench.evaluator import Evaluator
from hummingbird_edge.benchmarks.lib.vbench.flicker import flicker_of, mean_flicker
from hummingbird_edge.benchmarks.lib.vbench.run import Run, begin, describe, make, open_run
from hummingbird_edge.benchmarks.lib.vbench.scoring import (
    Scoring,
    score_table,
    totals_of,
    totals_table,
)
from hummingbird_edge.benchmarks.lib.vbench.suite import (
    Prompt,
    Suite,
    file_stem,
    parse_shard,
    shard_of,
)
from hummingbird_edge.benchmarks.lib.vbench.totals import Totals
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.errors import (
    DeviceError,
    GenerationError,
    OutputError,
    RequestError,
)
from hummingbird_edge.runtime.media.video import write_video
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request
from tests.conftest import SHAPES

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "vbench.py"
VERSION = "0.1.5"
STUBS = {
    "decord": "VideoReader = cpu = None\n",
    "torchvision": "",
    "torchvision/transforms": "Compose = Resize = CenterCrop = ToTensor = Normalize = None\n"
    "ToPILImage = InterpolationMode = None\n"
    "class InterpolationMode:\n    BICUBIC = BILINEAR = None\n",
}
"""What the official `utils` imports and neither loading nor flicker uses."""
COUNTS = {
    "subject_consistency": 72,
    "background_consistency": 86,
    FLICKER: 75,
    "motion_smoothness": 72,
    "dynamic_degree": 72,
    "aesthetic_quality": 93,
    "imaging_quality": 93,
    "object_class": 79,
    "multiple_objects": 82,
    "human_action": 100,
    "color": 85,
    "spatial_relationship": 84,
    "scene": 86,
    "appearance_style": 90,
    "temporal_style": 100,
    "overall_consistency": 93,
}
"""Prompts a dimension (Huang et al. 2024)."""
LEADERBOARD = {
    # Quality, semantic and total; then the 16 dimensions in the order of DIMENSIONS. Published in
    # table 11 of arXiv:2410.05677 and in table 5 of arXiv:2506.15564, from VBench's leaderboard.
    "VideoCrafter2": "82.20 73.42 80.44 96.85 98.22 98.41 97.73 42.50 63.13 67.22 "
    "92.55 40.66 95.00 92.92 35.86 55.29 25.13 25.84 28.23",
    "CogVideoX-5B": "82.75 77.04 81.61 96.23 96.52 98.66 96.92 70.97 61.98 62.90 "
    "85.23 62.11 99.40 82.81 66.35 53.20 24.91 25.38 27.59",
    "Kling": "83.39 75.68 81.85 98.33 97.60 99.30 99.40 46.94 61.21 65.62 "
    "87.24 68.05 93.40 89.90 73.03 50.86 19.62 24.17 26.42",
    "Gen-3": "84.11 75.17 82.32 97.10 96.62 98.61 99.23 60.14 63.34 66.82 "
    "87.81 53.64 96.40 80.90 65.09 54.57 24.31 24.71 26.69",
    "Gen-2": "82.47 73.03 80.58 97.61 97.61 99.56 99.58 18.89 66.96 67.42 "
    "90.92 55.47 89.20 89.49 66.91 48.91 19.34 24.12 26.17",
    "Pika-1.0": "82.92 71.77 80.69 96.94 97.36 99.74 99.50 47.50 62.04 61.87 "
    "88.72 43.08 86.20 90.57 61.03 49.83 22.26 24.22 25.94",
    "AnimateDiff-V2": "82.90 69.75 80.27 95.30 97.68 98.75 97.76 40.83 67.16 70.10 "
    "90.90 36.88 92.60 87.47 34.60 50.19 22.42 26.03 27.04",
    "Show-1": "80.42 72.98 78.93 95.53 98.02 99.12 98.24 44.44 57.35 58.66 "
    "93.07 45.47 95.60 86.35 53.50 47.03 23.06 25.28 27.46",
    "LaVie": "78.78 70.31 77.08 91.41 97.47 98.30 96.38 49.72 54.94 61.90 "
    "91.82 33.32 96.80 86.39 34.09 52.69 23.56 25.93 26.41",
    "OpenSoraPlan V1.3": "80.14 65.62 77.23 97.79 97.24 99.20 99.05 30.28 60.42 56.21 "
    "85.56 43.58 86.80 79.30 51.61 36.73 20.03 22.47 24.47",
}


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the official package lies; installed for these tests if needed."""
    try:
        return Path(str(distribution("vbench").locate_file("")))
    except PackageNotFoundError:
        folder = tmp_path_factory.mktemp("vbench_package")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    try:
        done = subprocess.run(
            [*pip, f"vbench=={VERSION}"], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package vbench was not installed within two minutes")
    if done.returncode:
        pytest.skip(f"the package vbench cannot be installed: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture
def official(
    package: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Evaluator:
    """Return the official evaluator with a folder of no weights; this process sees its prompts."""
    stubs = tmp_path_factory.mktemp("stubs")
    for name, text in STUBS.items():
        if find_spec(name.partition("/")[0]) is None:
            (stubs / name).mkdir(parents=True)
            (stubs / name / "__init__.py").write_text(text, encoding="utf-8")
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([known, str(package), str(stubs)]))
    monkeypatch.syspath_prepend(str(package))
    return Evaluator(tmp_path_factory.mktemp("weights"))


class FakeVideo:
    """What a fake pipeline makes: frames of the seed's shade, alternating by one step."""

    def __init__(self, seed: int, **shape: Any) -> None:
        self.frames = np.full((3, 16, 16, 3), seed % 200, np.uint8)
        self.frames[1] += 10
        self.seed = seed

    def save(self, path: Path) -> Path:
        write_video(path, self.frames, 4, {"prompt": "", "seed": self.seed})
        return path


class FakePipeline:
    """Makes videos in no time; `fails` are seeds that the model fails at."""

    def __init__(self, *fails: int) -> None:
        self.fails, self.prompts = fails, list[str]()

    def __call__(self, prompt: str, seed: int, **shape: Any) -> FakeVideo:
        self.prompts.append(prompt)
        if seed in self.fails:
            raise GenerationError("black frames")
        return FakeVideo(seed, **shape)


def pipeline(*fails: int) -> TextToVideo:
    return cast("TextToVideo", FakePipeline(*fails))


def suite_of(*prompts: Prompt) -> Suite:
    return Suite("vbench test", "0" * 64, prompts, is_official=True)


def record_of(suite: Suite, **shape: int) -> dict[str, Any]:
    request = Request.for_model(Bundle.open(BUILTIN).manifest, "any", 0, "full", **shape)
    return describe(suite, request, {"name": "fake", "bundle_sha256": "0"}, 0)


def run_of(folder: Path, suite: Suite) -> Run:
    return begin(folder, record_of(suite), suite.samples())


PAIR = suite_of(
    Prompt.official("A fantasy land", ("scene", "background_consistency")),
    Prompt.official("a fantasy land", ("scene", "background_consistency")),
)


# Prompts, names, seeds


@pytest.mark.slow
def test_the_official_suite_is_whole(official: Evaluator) -> None:
    suite = Suite.official()
    samples = suite.samples()
    assert (suite.name, len(suite.prompts)) == (f"vbench {VERSION}", 946)
    assert Counter(name for each in suite.prompts for name in each.dimensions) == COUNTS
    assert len(samples) == len({each.file for each in samples}) == 6230
    assert [each.seed for each in samples] == list(range(6230))
    flicker = Counter(each.prompt for each in samples if FLICKER in each.dimensions)
    assert (len(flicker), set(flicker.values())) == (75, {25})
    for each in samples:  # the official names, whichever letters a prompt has
        assert each.file.split("/")[1] == f"{each.prompt}-{each.index}.mp4"


@pytest.mark.slow
def test_no_two_names_of_a_folder_differ_by_case_alone(official: Evaluator) -> None:
    samples = Suite.official().samples()
    folded = {unicodedata.normalize("NFC", each.file).casefold() for each in samples}
    assert len(folded) == len(samples)
    apart = {each.folder for each in samples if each.prompt.lower() == "a fantasy landscape"}
    assert apart == {"overall_consistency", "overall_consistency-2"}


@pytest.mark.slow
def test_the_official_code_finds_every_video_of_a_whole_run(
    official: Evaluator, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", Suite.official())
    for each in run.samples:
        run.path(each).parent.mkdir(exist_ok=True)
        run.path(each).touch()
    jobs = [official.job(run, name, run.evaluated(name), tmp_path) for name in COUNTS]
    program = (
        "import json, sys, vbench\n"
        "from hummingbird_edge.benchmarks.lib.vbench.official import find\n"
        "jobs = json.load(sys.stdin)\n"
        "official = vbench.VBench('cpu', jobs[0]['info'], jobs[0]['output'])\n"
        "found = [[each['video_list'] for each in find(official, job)] for job in jobs]\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(jobs), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, found in zip(COUNTS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert [len(videos) for videos in found] == [5] * COUNTS[name]
        expected = [str(run.path(each).resolve()) for each in run.evaluated(name)]
        assert [path for videos in found for path in videos] == expected


def test_names_that_a_file_system_refuses_are_changed(tmp_path: Path) -> None:
    assert file_stem('who? "me": a/b\\c*|<d>\n') == "who_ _me__ a_b_c___d__"
    assert len(f"{file_stem('é' * 300)}-24.mp4".encode()) <= 255
    file = tmp_path / "prompts.txt"
    file.write_text("what?\nwhat*\nWHAT_\na cat\na cat\n", encoding="utf-8")
    suite = Suite.of_file(file)
    assert [each.text for each in suite.prompts] == ["what?", "what*", "WHAT_", "a cat"]
    firsts = [each.file for each in suite.samples(5) if each.index == 0]
    assert firsts == [
        "own_prompts/what_-0.mp4",
        "own_prompts-2/what_-0.mp4",
        "own_prompts-3/WHAT_-0.mp4",
        "own_prompts/a cat-0.mp4",
    ]
    assert [each.seed for each in suite.samples(5)] == list(range(5, 25))


@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_shards_are_disjoint_and_complete(count: int) -> None:
    prompts = (Prompt.official(f"p{i}", (FLICKER,)) for i in range(13))
    samples = suite_of(*prompts).samples()
    shards = [list(shard_of(samples, number, count)) for number in range(1, count + 1)]
    assert sorted(each.seed for shard in shards for each in shard) == list(range(len(samples)))
    sizes = {len(shard) for shard in shards}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "-1/2", "1/2/3", "a/b", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="write K/N"):
        parse_shard(text)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DeviceError, match="pip install --no-deps vbench"):
        Suite.official()


# Making videos


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    run = run_of(tmp_path, PAIR)
    make(run, list(run.samples)[:3], pipeline())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(before) == 3
    again, fake = run_of(tmp_path, PAIR), FakePipeline()
    make(again, again.samples, cast("TextToVideo", fake))
    assert len(fake.prompts) == 7
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert open_run(tmp_path) == again
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "run.json",
        "scene",
        "scene-2",
        "videos.jsonl",
    ]
    for folder in ("scene", "scene-2"):  # the evaluator takes the suffix of whichever name is first
        assert {path.suffix for path in (tmp_path / folder).iterdir()} == {".mp4"}
        assert len(list((tmp_path / folder).iterdir())) == 5


def test_nothing_half_written_lies_where_the_evaluator_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FakeVideo, path: Path) -> Path:
        path.write_bytes(b"half")
        raise OSError("disk full")

    run = run_of(tmp_path, PAIR)
    monkeypatch.setattr(FakeVideo, "save", fail)
    with pytest.raises(OutputError, match="disk full"):
        make(run, run.samples, pipeline())
    assert list((tmp_path / "scene").iterdir()) == []


def test_a_video_that_fails_costs_no_other(tmp_path: Path) -> None:
    run = run_of(tmp_path, PAIR)
    with pytest.raises(GenerationError, match=r"2 videos could not be made, first scene/A fan.*-2"):
        make(run, run.samples, pipeline(2, 7))
    assert len(list(tmp_path.rglob("*.mp4"))) == 8


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run_of(tmp_path, PAIR)
    own = Bundle.open(BUILTIN).manifest.defaults.frames
    with pytest.raises(RequestError, match=f"a run with video.frames {own}, not 4: choose another"):
        begin(tmp_path, record_of(PAIR, frames=4), PAIR.samples())
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").touch()
    with pytest.raises(RequestError, match=r"other things \(thesis.txt\)"):
        run_of(tmp_path / "else", PAIR)
    with pytest.raises(RequestError, match="is no record of a run"):
        open_run(tmp_path / "nowhere")
    (tmp_path / "videos.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(RequestError, match="is not what"):
        open_run(tmp_path)


# Scores


@pytest.mark.parametrize("model", LEADERBOARD)
def test_totals_are_those_that_were_published(model: str) -> None:
    quality, semantic, total, *scores = map(float, LEADERBOARD[model].split())
    found = Totals.of(
        {each.name: score / 100 for each, score in zip(DIMENSIONS, scores, strict=True)}
    )
    assert found.quality == pytest.approx(quality, abs=0.011)
    assert found.semantic == pytest.approx(semantic, abs=0.011)
    assert found.total == pytest.approx(total, abs=0.011)


def rows_of(*without: str, gaps: tuple[str, ...] = ()) -> list[Row]:
    return [
        Row(each.title, failure="no weights")
        if each.name in without
        else Row(each.title, {"score": (0.5,)}, {"gap": "x" if each.name in gaps else ""})
        for each in DIMENSIONS
    ]


def test_no_total_from_incomplete_dimensions() -> None:
    assert totals_of(rows_of()).total is not None
    lacking = totals_of(rows_of("scene"))
    assert (lacking.semantic, lacking.total) == (None, None)
    assert lacking.quality is not None
    assert totals_of(rows_of(gaps=(FLICKER,))) == replace(
        totals_of(rows_of()), quality=None, total=None
    )
    table = totals_table(lacking)
    assert "No total: not all 16 dimensions are complete." in table
    for figure in ("81.35", "80.31", "80.44"):
        assert figure in table
    assert "No total" not in totals_table(totals_of(rows_of()))


def test_flicker_is_the_mean_change(tmp_path: Path) -> None:
    FakeVideo(50).save(tmp_path / "a.mp4")
    assert flicker_of(tmp_path / "a.mp4") == pytest.approx(1 - 10 / 255, abs=2 / 255)
    write_video(tmp_path / "still.mp4", np.full((4, 16, 16, 3), 90, np.uint8), 4, {})
    assert flicker_of(tmp_path / "still.mp4") == 1.0
    write_video(tmp_path / "one.mp4", np.full((1, 16, 16, 3), 90, np.uint8), 4, {})
    with pytest.raises(OutputError, match="has one frame"):
        flicker_of(tmp_path / "one.mp4")
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    with pytest.raises(OutputError, match="cannot be read"):
        flicker_of(tmp_path / "damaged.mp4")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a small run of shapes whose prompts are still, moving and foreign to their model."""
    texts = ["a still red circle", "a blue star spinning on a white background", "a stop sign"]
    suite = suite_of(*(replace(Prompt.official(text, (FLICKER,)), samples=2) for text in texts))
    run = run_of(tmp_path_factory.mktemp("run"), suite)
    make(run, run.samples, TextToVideo.from_bundle(SHAPES, device="cpu"))
    return run


@pytest.mark.slow
def test_flicker_equals_the_official_code(official: Evaluator, videos: Run) -> None:
    paths = [videos.path(each) for each in videos.samples]
    program = (
        "import json, sys\n"
        "from vbench.temporal_flickering import temporal_flickering\n"
        "mean, each = temporal_flickering(sys.argv[1:])\n"
        "print(json.dumps([mean, [one['video_results'] for one in each]]))\n"
    )
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    mean, each = json.loads(done.stdout.splitlines()[-1])
    assert [flicker_of(path) for path in paths] == pytest.approx(each, abs=1e-6)
    assert mean_flicker(paths) == pytest.approx(mean, abs=1e-6)
    assert len(set(each)) == len(each)


@pytest.mark.slow
def test_the_official_package_scores_own_prompts(official: Evaluator, tmp_path: Path) -> None:
    """Through its own loading code, with names that no prompt can be read from."""
    file = tmp_path / "prompts.txt"
    file.write_text("what?\nwhat*\n", encoding="utf-8")
    suite = Suite.of_file(file)
    run = run_of(tmp_path / "run", suite)
    make(run, run.samples, pipeline())
    assert official.score(run, FLICKER, run.samples) == pytest.approx(
        mean_flicker([run.path(each) for each in run.samples]), abs=1e-6
    )
    rows = {row.name: row for row in Scoring(run, official).rows(list(BY_NAME))}
    assert rows["scene"].failure == "needs the official prompts"
    assert "has no raft_model/models/raft-things.pth" in rows["dynamic degree"].failure
    assert rows["temporal flickering"].metadata["gap"] == "other prompts than the official ones"


FAKE = {
    "vbench/__init__.py": """
import json
class VBench:
    def __init__(self, device, info, output):
        self.device, self.info, self.output_path = device, info, output
    def build_full_info_json(self, folder, name, dimensions, mode, prompt_list):
        path = f"{self.output_path}/{name}.json"
        with open(path, "w") as file:
            json.dump([{"video_list": [f"{folder}/{each}"]} for each in ("a", "b")], file)
        return path
""",
    "vbench/utils.py": """
import os
def init_submodules(dimensions, local):
    assert local
    return {name: os.environ["VBENCH_CACHE_DIR"] for name in dimensions}
""",
    "vbench/scene.py": """
import json
def compute_scene(info, device, weights, **options):
    with open(info) as file:
        found = json.load(file)
    assert weights.endswith("some_weights")
    return sum(len(each["video_list"]) for each in found) / 10, []
""",
    "vbench/color.py": "raise OSError('no detectron2')\n",
    "vbench/VBench_full_info.json": "[]",
    "vbench-0.1.5.dist-info/METADATA": "Name: vbench\nVersion: 0.1.5\n",
}


@pytest.mark.slow
def test_weights_in_a_local_folder_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in FAKE.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    weights = tmp_path / "some_weights"
    for name in ("scene", "color"):
        (weights / BY_NAME[name].weights[0]).parent.mkdir(parents=True)
        (weights / BY_NAME[name].weights[0]).touch()
    prompts = (replace(each, dimensions=("scene", "color", FLICKER)) for each in PAIR.prompts)
    run = run_of(tmp_path / "run", suite_of(*prompts))
    make(run, run.samples, pipeline())
    rows = {
        row.name: row for row in Scoring(run, Evaluator(weights)).rows(["scene", "color", FLICKER])
    }
    assert rows["scene"].median("score") == 0.4  # two prompts of two folders, loaded together
    assert rows["color"].failure == "the official evaluator failed: OSError: no detectron2"
    assert "--filtered" in str(rows["temporal flickering"].metadata["gap"])
    table = score_table(list(rows.values()))
    assert "| scene | 40.00 | 48.65 | 10 of 10 |  |" in table


def test_an_evaluator_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", PAIR)
    (row,) = Scoring(run).rows(["scene"])
    assert row.failure == "has no videos"
    make(run, run.samples[:5], pipeline())
    (row,) = Scoring(run).rows(["scene"])
    assert row.failure == "needs --weights FOLDER with caption_model/tag2text_swin_14m.pth"
    assert row.metadata == {"videos": 5, "of": 10}


# The judge of moving shapes


@pytest.mark.slow
def test_the_world_is_judged_by_dimension() -> None:
    from hummingbird_edge.benchmarks.lib.vbench.world import (
        REASONS,
        judge_rendered,
        judged,
        world_table,
    )
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.score import rendered, unseen_captions
    from hummingbird_edge.distill.world.shapes.scene import PAIRS

    row = judge_rendered(12, 0)
    table = world_table([row])
    for name in ("object class", "color", "scene", "dynamic degree", "overall consistency"):
        assert f"| {name} | 100.0 |  |" in table
    for name, reason in REASONS.items():
        assert f"| {name.replace('_', ' ')} |  | {reason} |" in table
    assert set(BY_NAME) <= set(row.measures) | set(REASONS)

    world = SHAPES_RECIPE.world
    scenes = [scene for scene, _ in unseen_captions(world, 12, 0)]
    still = np.repeat(rendered(scenes, world)[:, :1], world.frames, axis=1)
    found = judged(still, scenes)
    assert np.mean(found["dynamic_degree"]) == 0
    assert np.mean(found["color"]) == 1
    flicker = still.copy()
    flicker[:, ::2] //= 2
    assert np.mean(judged(flicker, scenes)["temporal_flickering"]) < 0.5

    two = replace(PAIRS, frames=8, pairs=1.0)
    pairs = [scene for scene, _ in unseen_captions(two, 12, 0)]
    clips = rendered(pairs, two)
    right, mirrored = judged(clips, pairs), judged(clips[:, :, ::-1, ::-1], pairs)
    for name in ("spatial_relationship", "multiple_objects"):
        assert np.mean(right[name]) > 0.9
    assert np.mean(mirrored["spatial_relationship"]) < 0.1


# The command


def script(*arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        timeout=300,
    )


@pytest.mark.slow
def test_sample_and_score_from_the_command_line(official: Evaluator, tmp_path: Path) -> None:
    arguments = ("sample", "run", "--dimension", FLICKER, "--device", "cpu", "--steps", 1)
    for shard in ("1/1000", "2/1000", "1/1000"):
        done = script(*arguments, "--shard", shard, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "2 of 6230 videos, 2 are there" in done.stderr
    run = open_run(tmp_path / "run")
    assert len(list((tmp_path / "run" / FLICKER).iterdir())) == 4
    fps = Bundle.open(BUILTIN).manifest.defaults.fps
    assert (run.record["video"]["fps"], run.record["video"]["steps"]) == (fps, 1)
    scored = script("score", "run", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert "| temporal flickering |" in scored.stdout
    assert "No total" in scored.stdout
    entries = json.loads((tmp_path / "vbench.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in entries["rows"]] == [each.title for each in DIMENSIONS]


@pytest.mark.slow
def test_a_batch_makes_the_videos_of_a_run(tmp_path: Path) -> None:
    """Two workers make the videos that one process makes, and go on after a kill."""
    (tmp_path / "p.txt").write_text("A red circle\na red circle\na/b\n", encoding="utf-8")
    small = ("--size", "64x64", "--frames", 2, "--steps", 1, "--shard", "1/3")
    here = ("sample", "here", "--prompts", "p.txt", *small, "--device", "cpu")
    there = ("sample", "there", "--prompts", "p.txt", *small, "--device", "cpu+cpu")
    results = tmp_path / "there" / ".batch-1" / "results.jsonl"
    command = [sys.executable, str(SCRIPT), *map(str, there)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as started:
        while started.poll() is None and not (results.exists() and results.read_bytes()):
            time.sleep(0.01)
        started.kill()
    for arguments in (there, here):
        done = script(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{arguments[1]}\n"), done.stderr
    assert "5 of 15 videos, 0 are there" in done.stderr
    by_batch, by_sample = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.mp4")}
        for folder in (tmp_path / "there", tmp_path / "here")
    )
    assert len(by_batch) == 5
    assert by_batch == by_sample
    assert not results.parent.exists()
    assert "5 of 15 videos, 5 are there" in script(*there, cwd=tmp_path).stderr


@pytest.mark.slow
def test_the_world_from_the_command_line(tmp_path: Path) -> None:
    arguments = ("--captions", 2, "--device", "cpu", "--precision", "fp32", "--precision", "int8")
    done = script("world", SHAPES, *arguments, "--steps", 1, "--steps", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    for name in (
        "rendered",
        "cpu fp32, 8 frames of 64x64, 1 step",
        "cpu int8, 8 frames of 64x64, 4",
    ):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("sample", "run", "--dimension", "beauty"), 2, "there is no dimension 'beauty'"),
        (("sample", "run", "--shard", "4/3"), 2, "--shard is '4/3'"),
        (("sample", "run", "--prompts", "nowhere.txt"), 2, "nowhere.txt cannot be read"),
        (("sample", "run", "--prompts", "p.txt", "--size", "65x64"), 2, "width 65 does not divide"),
        (("sample", "p.txt", "--prompts", "p.txt"), 1, "p.txt is no folder to write to"),
        (("score", "nowhere"), 2, "is no record of a run"),
        (("score", "run", "--weights", "nowhere"), 2, "nowhere is not a folder"),
        (("score", "run", "--evaluator", "python"), 2, "give --weights FOLDER too"),
        (("score", "run", "--output", "a.md"), 1, "ends in .json"),
        (("world", "nowhere"), 1, "nowhere"),
    ],
)
@pytest.mark.slow
def test_wrong_input_is_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n", encoding="utf-8")
    done = script(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
