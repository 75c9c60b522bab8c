"""Training: every stage runs, goes on where it stopped, and ends in what hb-export reads."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hummingbird_edge.benchmarks.lib.record import Record
from hummingbird_edge.distill.ablation import VARIANTS, ablate, ablation_table
from hummingbird_edge.distill.card import write_card
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.evaluation import Scores
from hummingbird_edge.distill.recipe import SHAPES_RECIPE
from hummingbird_edge.distill.stages.order import STAGES, train_all
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.strip import write_strips
from hummingbird_edge.distill.train.consistency import ConsistencyRecipe, ConsistencyStage
from hummingbird_edge.distill.train.diffusion import Diffusion
from hummingbird_edge.distill.train.matching import MatchingRecipe, MatchingStage
from hummingbird_edge.distill.train.model import PROMPTS, Model
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.sampling import generate, measure_noise, sample_latents
from hummingbird_edge.distill.train.training import Stage, cosine_rate, fit, generator_of
from hummingbird_edge.export import build_bundle
from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.models.config import ModelConfig, UNetConfig
from hummingbird_edge.export.weights import CheckpointWeights
from hummingbird_edge.runtime import files
from hummingbird_edge.runtime.errors import (
    CheckpointError,
    GenerationError,
    OutputError,
    RequestError,
)
from hummingbird_edge.runtime.media.temporal_noise import remove_temporal_noise
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.prompts import read_prompts
from tests.conftest import SHAPES
from tests.tiny_distill import RECIPE, TINY

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(autouse=True)
def few_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning to read, and watching, are functions of the full recipe's size."""
    monkeypatch.setattr("hummingbird_edge.distill.train.reader.STEPS", 3)
    monkeypatch.setattr("hummingbird_edge.distill.stages.watch.CAPTIONS", 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every stage ran once."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hummingbird_edge.distill.train.reader.STEPS", 3)
        patch.setattr("hummingbird_edge.distill.stages.watch.CAPTIONS", 4)
        train_all(Sources(folder), RECIPE, 0)
    return folder


def steps_of(folder: Path, stage: str) -> list[int]:
    return [entry["step"] for entry in Run(folder, stage).entries() if "loss" in entry]


@pytest.mark.parametrize(
    "stage", ["autoencoder", "teacher", "matching", "consistency", "scorer", "decoder"]
)
def test_every_stage_logs_saves_and_goes_on(run: Path, stage: str) -> None:
    STAGES[stage](Sources(run), RECIPE.with_plan(stage, 3), 0)
    assert steps_of(run, stage) == [1, 2, 3]
    state = Run(run, stage).load()
    assert state is not None
    assert state["step"] == 3
    # Reading is learnt once, at the start.
    entries = Run(run, stage).entries()
    assert sum("motion_read" in entry for entry in entries) == (stage == "teacher")
    assert all(np.isfinite(entry["loss"]) for entry in entries if "loss" in entry)


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    STAGES["autoencoder"](Sources(whole), RECIPE.with_plan("autoencoder", 4), 0)
    # The rate depends on the planned length: only a run that was cut short can be compared.
    plan = replace(TINY, steps=4, save_every=2)
    recipe = replace(RECIPE, plans={**RECIPE.plans, "autoencoder": plan})

    class StopError(Exception):
        pass

    def stop(self: Run, state: Mapping[str, object]) -> None:
        real(self, state)
        if state["step"] == 2:
            raise StopError

    real = Run.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", stop)
        with pytest.raises(StopError):
            STAGES["autoencoder"](Sources(parts), recipe, 0)
    STAGES["autoencoder"](Sources(parts), recipe, 0)
    first, second = (Run(folder, "autoencoder").load() for folder in (whole, parts))
    assert first is not None
    assert second is not None
    for name, tensor in first["model"].items():
        torch.testing.assert_close(second["model"][name], tensor)


@pytest.mark.parametrize("name", ["teacher", "pruned", "matched", "distilled", "student"])
def test_models_are_checkpoints_that_export_reads(run: Path, name: str) -> None:
    folder = run / name
    config = ModelConfig.from_dict(json.loads((folder / "config.json").read_text()))
    checkpoint = read_checkpoint(folder / "model.safetensors")
    for network in ("text_encoder", "unet", "vae"):
        CheckpointWeights(checkpoint).load(network, config)
    is_teacher = name == "teacher"
    assert (config.method, config.defaults.steps) == (("ddim", 10) if is_teacher else ("lcm", 4))
    assert (config.unet.guidance_width, config.unet.middle_block) == (
        (None, True) if is_teacher else (256, False)
    )
    assert (folder / "prompts.txt").exists() == (name == "student")


def test_prompts_that_no_bundle_can_carry_are_refused(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(run / "student", model)
    assert len(read_prompts(model / "prompts.txt")) == PROMPTS
    (model / "prompts.txt").write_text("a red circle\n" * 65, encoding="utf-8")
    with pytest.raises(RequestError, match="there are 65 prompts, 64 at most can be"):
        build_bundle(model, tmp_path / "bundle", precision="fp32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_cannot_be_moved_into_place_leaves_the_old_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = tmp_path / "model", Model.read(run / "student")
    model.write(folder)
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    real, failures = Path.replace, [OSError(13, "Permission denied")]

    def fail_once(self: Path, target: Path) -> Path:
        if target == folder and failures:
            raise failures.pop()
        return real(self, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "replace", fail_once)
    with pytest.raises(OutputError, match="Permission denied"):
        model.write(folder)
    after = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert after == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_models_make_clips(run: Path) -> None:
    for name, steps in (("teacher", 3), ("student", 4)):
        model = Model.read(run / name).frozen()
        clips = generate(model, ["a red circle moving right", "a blue square moving left"], steps)
        assert clips.shape == (2, 4, 16, 16, 3)
        assert clips.dtype == np.uint8


def test_students_are_timed_against_their_teachers(run: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "distillation.py"
    asked = [str(run), "--world", "shapes", "--captions", "2", "--clips", "2"]
    done = subprocess.run(
        [sys.executable, str(script), *asked], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = Record.read(tmp_path / "distillation.json")
    assert [row.name for row in found.rows] == ["teacher", "student"]
    assert [row.metadata["steps"] for row in found.rows] == ["10, guided", "4"]
    assert found.rows[0].median("clip_s") > found.rows[1].median("clip_s")


def test_students_share_the_teachers_text_encoder_and_vae(run: Path) -> None:
    # Of the same run: other tests train the teacher on.
    teacher, student = Model.read(run / "pruned"), Model.read(run / "student")
    for name, tensor in student.text.state_dict().items():
        assert torch.equal(tensor, teacher.text.state_dict()[name])
    theirs = teacher.vae.state_dict()
    changed = {n for n, x in student.vae.state_dict().items() if not torch.equal(x, theirs[n])}
    # What latents mean must not change; how they are decoded may.
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_clip_i_has_the_noise_of_seed_plus_i(run: Path) -> None:
    model = Model.read(run / "student").frozen()
    prompts = ["a red circle moving right", "a blue square moving left"]
    together = generate(model, prompts, seed=5)
    for i, prompt in enumerate(prompts):
        alone = generate(model, [prompt], seed=5 + i)[0].astype(int)
        assert np.abs(together[i] - alone).mean() < 1
        assert np.abs(together[1 - i] - alone).mean() > 5


def test_clips_are_without_the_models_temporal_noise(run: Path) -> None:
    model, prompts = Model.read(run / "student").frozen(), ["a red circle moving right"]
    assert measure_noise(model, prompts) > 0
    found = generate(replace(model, config=replace(model.config, temporal_noise=0.5)), prompts)
    latents = sample_latents(model, model.ids(prompts), 4, (8, 8)).numpy()
    pixels = model.decode(torch.from_numpy(remove_temporal_noise(latents, 0.5)))
    expected = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 1, 3, 4, 2).numpy()
    np.testing.assert_array_equal(found, expected)
    assert (found != generate(model, prompts)).any()


class Ideal(nn.Module):
    """Predict v of the one clip `x0`, off by `error` times t."""

    def __init__(self, config: UNetConfig, x0: torch.Tensor, diffusion: Diffusion) -> None:
        super().__init__()
        self.config, self.x0, self.diffusion = config, x0, diffusion
        self.error = nn.Parameter(torch.zeros(()))

    def forward(
        self, x_t: torch.Tensor, t: torch.Tensor, context: torch.Tensor, *rest: torch.Tensor
    ) -> torch.Tensor:
        alpha, sigma = self.diffusion.scales(t)
        off = self.error * t.view(-1, 1, 1, 1, 1)
        return (alpha * x_t - (self.x0 + off)) / sigma


def values(stage: ConsistencyStage | MatchingStage) -> dict[str, float]:
    """Return the losses of a stage's first step."""
    return {name: x.item() for name, x in stage(0, generator_of(0, 0, 0)).items()}


def one_clip(run: Path) -> tuple[Clips, torch.Tensor]:
    clips = Clips.read(run / "clips.safetensors")
    one = Clips(clips.latents[:1], clips.captions[:1], clips.scaling_factor)
    return one, one.latents.float()


@pytest.mark.parametrize("simulated", [0.0, 1.0])
def test_stage_2_has_no_loss_where_all_agree_and_the_known_loss_where_not(
    run: Path, simulated: float
) -> None:
    clips, x0 = one_clip(run)
    teacher, student = Model.read(run / "pruned"), Model.read(run / "matched").unet
    recipe = ConsistencyRecipe(
        guidance=(1.0, 2.0), task_weight=1.0, simulated_share=simulated, first_share=1 - simulated
    )
    stage = ConsistencyStage(teacher, student, clips, {}, recipe, 4, torch.device("cpu"))
    stage.model.unet = Ideal(student.config, x0, stage.diffusion)  # type: ignore[assignment]
    stage.trained = Ideal(student.config, x0, stage.diffusion)  # type: ignore[assignment]
    assert all(abs(x) < 1e-3 for x in values(stage).values())
    # x0 is off by t / 1000: by 0.999 where it starts, by 0.02 less after the teacher's step.
    stage.trained.error.data.fill_(1e-3)  # type: ignore[operator]
    losses = values(stage)
    c = recipe.huber
    assert losses["consistency"] == pytest.approx(math.hypot(0.02, c) - c, rel=0.05)
    if not simulated:
        assert losses["task"] == pytest.approx(math.hypot(0.999, c) - c, rel=0.01)


def test_stage_1_has_no_loss_against_itself(run: Path) -> None:
    clips, _ = one_clip(run)
    teacher, same = Model.read(run / "teacher"), Model.read(run / "teacher").unet
    args = clips, MatchingRecipe(guidance=1.0), 4, torch.device("cpu")
    losses = values(MatchingStage(teacher, same, *args))
    assert losses["output"] < 1e-6
    assert losses["features"] < 1e-6
    assert losses["loss"] == pytest.approx(losses["task"], rel=1e-4)
    with torch.no_grad():
        same.out[2].bias.add_(0.5)  # type: ignore[operator]
    losses = values(MatchingStage(teacher, same, *args))
    assert losses["output"] == pytest.approx(0.25, rel=0.05)


def test_ablation_trains_each_variant_once(run: Path) -> None:
    sources = Sources(run)
    table = ablate(sources, RECIPE, 2, 4, 0)
    found = json.loads((run / "ablation.json").read_text())
    assert tuple(found) == VARIANTS
    sizes = {name: row["unet_parameters"] for name, row in found.items()}
    assert sizes["without pruning"] > 1.2 * sizes["all ingredients"]
    assert sizes["without the guidance embedding"] < sizes["all ingredients"]
    logs = [run / "ablation" / name.replace(" ", "-") for name in VARIANTS]
    before = [steps_of(folder, "consistency") for folder in logs]
    assert before == [[1, 2]] * len(VARIANTS)
    ablate(sources, RECIPE, 2, 4, 0)
    assert [steps_of(folder, "consistency") for folder in logs] == before
    assert table == ablation_table(run / "ablation.json")
    rows = table.splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == list(VARIANTS)
    # From another start, the old checkpoint is of no use.
    model = Model.read(run / "matched")
    with torch.no_grad():
        model.unet.out[2].bias.add_(0.5)  # type: ignore[operator]
    model.write(run / "matched")
    (run / "ablation.json").unlink()
    ablate(sources, RECIPE, 2, 4, 0)
    assert steps_of(logs[0], "consistency") == [1, 2, 1, 2]
    assert steps_of(logs[2], "consistency") == [1, 2]  # without stage 1


def test_a_card_is_made_of_what_the_run_left(run: Path, tmp_path: Path) -> None:
    pipeline = TextToVideo.from_bundle(SHAPES, device="cpu")
    scores = Scores(4, {"all": 0.75}, {"flicker": 0.9})
    write_card(run, RECIPE, pipeline, scores, tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    for part in ("| all | 75.0 % |", "| flicker | 90.0 % |", "| consistency | ", "16 clips"):
        assert part in text
    for name in ("losses.png", "samples.png"):
        with Image.open(tmp_path / "card" / name) as image:
            assert min(image.size) > 100
    with pytest.raises(RequestError, match="no log of autoencoder"):
        write_card(tmp_path / "none", RECIPE, pipeline, scores, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "none").exists()


def test_clips_come_back_as_written(run: Path, tmp_path: Path) -> None:
    clips = Clips.read(run / "clips.safetensors")
    assert clips.latents.shape == (16, 4, 4, 8, 8)
    assert float(clips.latents.float().std()) == pytest.approx(1, abs=0.02)
    clips.write(tmp_path / "again.safetensors")
    again = Clips.read(tmp_path / "again.safetensors")
    assert torch.equal(again.latents, clips.latents)
    assert [list(texts) for texts in again.captions] == [list(texts) for texts in clips.captions]


def test_other_files_are_no_clips(tmp_path: Path) -> None:
    path = tmp_path / "clips.safetensors"
    path.write_bytes(b"no clips at all")
    with pytest.raises(CheckpointError, match="holds no encoded clips"):
        Clips.read(path)


@pytest.mark.parametrize(
    ("stage", "maker"),
    [
        ("clips", "autoencoder"),
        ("teacher", "clips"),
        ("prune", "teacher"),
        ("matching", "teacher"),
        ("consistency", "teacher"),
    ],
)
def test_a_stage_names_what_must_run_before_it(tmp_path: Path, stage: str, maker: str) -> None:
    with pytest.raises(RequestError, match=f"run hb-distill {maker} "):
        STAGES[stage](Sources(tmp_path), RECIPE, 0)


def test_a_checkpoint_of_another_shape_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "autoencoder.pt").write_bytes((run / "teacher.pt").read_bytes())
    with pytest.raises(CheckpointError, match="of another shape"):
        STAGES["autoencoder"](Sources(other), RECIPE, 0)
    (other / "autoencoder.pt").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="delete it to start autoencoder again"):
        STAGES["autoencoder"](Sources(other), RECIPE, 0)


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, "stage")
    run.save({"step": 1})

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"No space left.*resumes from the last checkpoint"):
        run.save({"step": 2})
    assert run.load() == {"step": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage.pt"]


class Diverging(Stage[torch.nn.Linear]):
    """A stage whose loss is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = torch.nn.Linear(1, 1)

    def forward(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"loss": self.trained.weight.sum() * float("nan")}


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="no longer a number"):
        fit(Run(tmp_path, "diverging"), Diverging(), TINY, 0)
    assert not (tmp_path / "diverging.pt").exists()


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"process-{rank}").read_text().split() for rank in (0, 1))
    assert first[0] == second[0] == "2"
    assert first[1] == second[1], "weights differ: gradients were not shared"
    assert first[2] != second[2], "both processes drew the same clips"
    assert steps_of(tmp_path, "autoencoder") == [1, 2]


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [cosine_rate(step, 1000, 1e-3) for step in range(1001)]
    assert rates[0] < rates[50] < rates[99] == pytest.approx(1e-3)
    assert rates[1000] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[100:]))


def test_the_recipe_of_moving_shapes_fits_together(tmp_path: Path) -> None:
    tokenizer = SHAPES_RECIPE.tokenizer(tmp_path)
    teacher = SHAPES_RECIPE.teacher_config(tokenizer, 0.4)
    student = SHAPES_RECIPE.student_config(teacher, SHAPES_RECIPE.student_unet())
    assert teacher.sampler().method == "ddim"
    assert student.sampler().method == "lcm"
    assert set(SHAPES_RECIPE.plans) == set(STAGES) - {"clips", "prune"}
    world = SHAPES_RECIPE.world
    sizes = [len(names) for names in (world.colours, world.shapes, world.motions)]
    assert all(found >= least for found, least in zip(sizes, [7, 5, 8], strict=True))
    assert len(world.backgrounds) >= 4


def test_strip_is_a_grid_of_frames(tmp_path: Path) -> None:
    clip = np.full((3, 8, 8, 3), 200, np.uint8)
    write_strips(tmp_path / "strip.png", [clip, clip], scale=2, gap=4)
    with Image.open(tmp_path / "strip.png") as image:
        assert image.size == (3 * 12 * 2, 2 * 12 * 2)
