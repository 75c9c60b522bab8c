"""Training the cartoons within a budget of time, and weights that are carried."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hummingbird_edge.benchmarks.lib.record import Record
from hummingbird_edge.distill.cartoons import autoencoder, delivery
from hummingbird_edge.distill.cartoons.ablation import ablation_table, variants
from hummingbird_edge.distill.cartoons.budget import (
    Schedule,
    TimedStage,
    fit_budget,
    parse_budget,
    rate_at,
    set_gradients,
    share_spent,
)
from hummingbird_edge.distill.cartoons.delivery import pack, unpack
from hummingbird_edge.distill.cartoons.pool import draw_clips, read_shots, write_shots
from hummingbird_edge.distill.cartoons.recipe import RECIPE, RECIPES, SMALL, TINY, Recipe
from hummingbird_edge.distill.cartoons.session import Session
from hummingbird_edge.distill.cartoons.teacher import Learner, without_time
from hummingbird_edge.distill.cartoons.train import Order, share_out, train
from hummingbird_edge.distill.train.model import PROMPTS
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.sampling import generate
from hummingbird_edge.distill.world.cartoons.catalog import NOUNS
from hummingbird_edge.distill.world.cartoons.shots import (
    is_held_out,
)
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.errors import CheckpointError, RequestError
from hummingbird_edge.runtime.tokenizer import Tokenizer
from tests.cartoons.conftest import WORLD, assert_learns
from tests.test_cli import assert_refused

Command = Callable[..., "subprocess.CompletedProcess[str]"]
CARRIED = Path(__file__).parents[2] / "distill" / "cartoons" / "weights" / "small"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("1.5h", 5400)])
def test_budgets_are_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "-3m", "0s", "9 minutes"])
def test_a_budget_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="give a number with s, m or h"):
        parse_budget(text)


def test_the_rate_rises_and_falls_with_the_share_of_time() -> None:
    rates = [rate_at(share, 1.0, 0.1) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.5, 0.0])


def test_shares_of_some_stages_fill_the_budget() -> None:
    seconds = share_out(RECIPE, ["vae", "clips", "teacher", "score"], 600)
    assert sum(seconds.values()) == pytest.approx(600)
    assert set(seconds) == {"vae", "clips", "teacher"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_builds_its_networks_and_shares_out_all_time(recipe: Recipe) -> None:
    assert sum(plan.share for plan in recipe.plans.values()) == pytest.approx(1)
    assert set(recipe.world.nouns) <= set(NOUNS)
    config = recipe.student_config(recipe.teacher, recipe.student_unet())
    with torch.device("meta"):
        parts = UNet(config.unet), TextEncoder(config.text), VAE(config.vae).decoder
    halves = 2 * sum(weight.numel() for part in parts for weight in part.parameters())
    assert halves < 45e6 + 2 * 49408 * config.text.width  # its vocabulary is cut down later


class Line(TimedStage[nn.Linear]):
    """Fit a line, and note the shares of time seen."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Linear(1, 1)
        self.shares: list[float] = []

    def forward(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        self.shares.append(self.share)
        x = torch.randn(64, 1, generator=generator)
        return {"loss": (self.trained(x) - 3 * x + 1).square().mean()}


@pytest.mark.slow
def test_training_ends_with_its_budget_and_goes_on_from_it(tmp_path: Path) -> None:
    schedule, run = Schedule(peak_rate=0.1, decay=0.9, save_every_s=0.1), Run(tmp_path, "line")
    first = Line()
    weights = fit_budget(run, first, schedule, 0.5, 0)
    assert float(weights["weight"]) == pytest.approx(3, abs=0.05)
    assert first.shares == sorted(first.shares)
    assert first.shares[-1] < 1
    state = run.load()
    assert state is not None
    assert 0.5 <= state["spent_s"] < 1.0
    again = Line()
    fit_budget(run, again, schedule, 0.5, 0)
    assert not again.shares
    fit_budget(run, again, schedule, 1.0, 0)
    assert again.shares[0] >= 0.5
    pack_as(run, "short", budget_s=9.0)
    fit_budget(Run(tmp_path, "short"), Line(), schedule, 0.25, 0)
    state = Run(tmp_path, "short").load()
    assert state is not None
    assert share_spent(state) == 1, "a smaller budget ends a stage"
    for budget_s, least, most in ((2.0, 0.4, 0.9), (0.5, 0.0, 0.1)):
        carried, other = Line(), tmp_path / f"other-{budget_s}"
        pack_as(run, "vae", budget_s)
        unpack(tmp_path / "carried", other)
        fit_budget(Run(other, "vae"), carried, schedule, 0.2, 0)
        assert least <= carried.shares[0] < most, "what was finished trains again"


def pack_as(run: Run, name: str, budget_s: float) -> None:
    """Carry a stage's weights as those of another, of which a part of its time has passed."""
    state = run.load()
    assert state is not None
    Run(run.folder, name).save({**state, "budget_s": budget_s})
    pack(run.folder, run.folder / "carried")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, "line")
    run.save({"model": {"other": torch.zeros(1)}, "average": {}, "step": 1, "spent_s": 0.0})
    with pytest.raises(CheckpointError, match="a model of another shape"):
        fit_budget(run, Line(), Schedule(0.1), 1.0, 0)


@pytest.mark.slow
def test_a_vae_learns_from_frames(sprites: Sprites) -> None:
    torch.manual_seed(0)
    stage = autoencoder.FrameStage(
        TINY.teacher.vae, dataclasses.replace(WORLD, resolution=32), sprites, 4
    )
    assert_learns(stage, steps=12, rate=3e-3)
    figures = autoencoder.measure_vae(stage.trained, stage.world, sprites, 8)
    parts = (figures["sprite_db"], figures["ground_db"])
    assert min(parts) <= figures["psnr_db"] <= max(parts)
    assert autoencoder.psnr(torch.full((9,), 0.01)) == 20


def test_a_pool_knows_what_its_captions_ask_for(sprites: Sprites, tmp_path: Path) -> None:
    world = dataclasses.replace(WORLD, resolution=32, frames=2)
    vae = VAE(TINY.teacher.vae).eval()
    clips, shots = draw_clips(vae, world, sprites, 5, 60, 0)
    assert clips.latents.shape == (5, TINY.teacher.vae.latent_channels, 2, 8, 8)
    assert clips.latents.float().std() == pytest.approx(1, abs=0.05)
    assert not any(map(is_held_out, shots))
    write_shots(shots, tmp_path / "shots.json")
    assert read_shots(clips, tmp_path / "shots.json")[clips.captions[3][0]] == shots[3]


def test_frames_alone_leave_the_temporal_layers_out() -> None:
    torch.manual_seed(0)
    config = TINY.teacher
    learner = Learner(config, TINY.world)
    for parameter in learner.unet.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = torch.randn(1, config.unet.latent_channels, 3, 4, 4)
    t, context = torch.tensor([500]), torch.randn(1, 7, config.text.width)
    fps = torch.tensor([8])
    with torch.no_grad():
        together = learner.unet(x, t, context, None, fps)
        with without_time(learner.unet):
            apart = learner.unet(x, t, context, None, fps)
            each = [learner.unet(x[:, :, i : i + 1], t, context, None, fps) for i in range(3)]
    torch.testing.assert_close(apart, torch.cat(each, 2), atol=1e-4, rtol=1e-4)
    assert (together - apart).abs().max() > 1e-3


def test_temporal_layers_start_as_identities() -> None:
    torch.manual_seed(0)
    config = TINY.teacher
    learner = Learner(config, TINY.world)
    x = torch.randn(1, config.unet.latent_channels, 3, 4, 4)
    args = (torch.tensor([500]), torch.randn(1, 7, config.text.width), None, torch.tensor([8]))
    with torch.no_grad():
        together = learner.unet(x, *args)
        with without_time(learner.unet):
            torch.testing.assert_close(learner.unet(x, *args), together)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--world", "clouds"), "there is no world 'clouds': choose cartoons or shapes"),
        (("--world", "shapes", "--budget", "9m"), "--budget is for --world cartoons: leave it out"),
        (("--world", "cartoons", "--budget", "soon"), "--budget 'soon' is no time"),
        (("--world", "cartoons", "--recipe", "huge"), "there is no recipe 'huge'"),
        (("--world", "cartoons", "--stages", "vae,x"), "--stages names x: known are vae"),
    ],
)
def test_wrong_orders_are_a_sentence(
    hb_forked: Command, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = hb_forked("hb-distill", "all", tmp_path / "run", *options)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_of_shapes_is_not_gone_on_with(hb_forked: Command, tmp_path: Path) -> None:
    (tmp_path / "autoencoder.pt").touch()
    done = hb_forked("hb-distill", "all", tmp_path, "--recipe", "tiny", "--budget", "9s")
    assert done.returncode == 2, done.stderr
    assert "is a run of moving shapes: give --world shapes" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["autoencoder.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [("all", "--world", "shapes"), ("matching",)])
def test_shapes_are_not_trained_in_a_run_of_cartoons(
    hb_forked: Command, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "vae.pt").touch()
    done = hb_forked("hb-distill", command[0], tmp_path, *command[1:])
    assert done.returncode == 2, done.stderr
    assert "is a run of cartoons: " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["vae.pt"]


def test_an_order_without_budget_is_for_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Session] = []
    monkeypatch.setattr("hummingbird_edge.distill.cartoons.train.STAGES", {"vae": made.append})
    train(Order(tmp_path, device="cpu", stages="vae"))
    assert made[0].recipe == SMALL
    assert made[0].budgets == {"vae": pytest.approx(6 * 3600)}
    train(Order(tmp_path, device="cpu", stages="vae", recipe="tiny", budget="9m"))
    assert made[1].recipe == TINY
    assert made[1].budgets == {"vae": pytest.approx(540)}


def test_gradients_have_their_weights_layout() -> None:
    """Else the fused optimizer gives every number of a convolution another one's gradient."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights, flat = list(layer.parameters()), torch.randn(4 * 8 * 9 + 8)
    set_gradients(weights, flat)
    weight, bias = weights
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.stride() == weight.stride()
    torch.testing.assert_close(torch.cat([weight.grad.flatten(), bias.grad]), flat)
    before = weight.detach().clone()
    torch.optim.AdamW(weights, 0.1, weight_decay=0, fused=True).step()
    torch.testing.assert_close(weight.detach() - before, -0.1 * weight.grad.sign())


def test_carried_weights_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MAX_BYTES", 3000)
    torch.manual_seed(0)
    average = {f"layer{i}": torch.randn(20, 40) for i in range(4)}
    state = {"average": average, "model": average, "step": 5, "config": {"width": 8}}
    times = {"spent_s": 9.0, "budget_s": 9.0}
    Run(tmp_path / "run", "vae").save({**state, "optimizer": {}, **times})
    Run(tmp_path / "run", "judge").save({**state, **times, "budget_s": 36.0})
    files = pack(tmp_path / "run", tmp_path / "carried")
    assert len(files) == 8
    assert unpack(tmp_path / "carried", tmp_path / "other") == ["vae", "judge"]
    back, unfinished = (Run(tmp_path / "other", name).load() for name in ("vae", "judge"))
    assert back is not None
    assert unfinished is not None
    assert (back["share"], unfinished["share"]) == (1, 0.25)
    Run(tmp_path / "other", "vae").save({**back, "step": 7})  # trained on since
    assert unpack(tmp_path / "carried", tmp_path / "other") == ["vae", "judge"]
    again = Run(tmp_path / "other", "vae").load()
    assert again is not None
    assert again["step"] == 7, "it goes on from its own checkpoint"
    for taken in (tmp_path / "run", tmp_path / "third"):
        Run(taken, "vae").save(state)
        with pytest.raises(RequestError, match="has other checkpoints than"):
            unpack(tmp_path / "carried", taken)
    assert back["config"] == {"width": 8}
    for name, tensor in average.items():
        torch.testing.assert_close(back["average"][name], tensor, atol=2e-3, rtol=1e-3)


def test_carried_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks files of carried weights"):
        unpack(tmp_path, tmp_path / "run")


@pytest.mark.slow
def test_the_trained_vae_is_good_enough_for_what_comes_next(tmp_path: Path) -> None:
    assert unpack(CARRIED, tmp_path) == ["vae", "teacher"]
    state = Run(tmp_path, "vae").load()
    assert state is not None
    vae = VAE(SMALL.teacher.vae)
    vae.load_state_dict(state["average"])
    every = Sprites.read(SMALL.world.nouns, torch.device("cpu"))
    found = autoencoder.measure_vae(vae.eval(), SMALL.world, every, count=48)
    assert found["psnr_db"] >= 31, found
    assert found["sprite_db"] >= 27, found


@pytest.mark.slow
def test_the_teacher_moves_large_sprites_where_its_captions_say(tmp_path: Path) -> None:
    unpack(CARRIED, tmp_path)
    session = Session(tmp_path, SMALL, Sprites.read(("bus",)), torch.device("cpu"), 0, {})
    model = session.teacher().frozen()
    grounds = {"white": (255, 255, 255), "red": (220, 40, 40)}
    captions = [
        f"a large bus moving {side} on a {ground} background"
        for side, ground in zip(("left", "right"), grounds, strict=True)
    ]
    clips = generate(model, captions, steps=8, seed=3).astype(float)
    corners = clips[:, :, :4, :4].mean((1, 2, 3))
    assert np.abs(corners - np.array(list(grounds.values()))).max() < 40
    unlike = np.abs(clips - corners[:, None, None, None]).sum(-1) > 120
    across = (unlike.mean(2) * np.linspace(0, 1, clips.shape[3])).sum(2) / unlike.mean(2).sum(2)
    left, right = across[:, -1] - across[:, 0]
    assert left < -0.2
    assert right > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 1, "there is no judge in .*nothing: name a run that trained one"),
        (["--world", "shapes", "--budget", "1m"], 2, "--budget is for --world cartoons"),
        (["--steps", "3"], 2, "--steps is for --world shapes"),
        (["--world", "plants"], 2, "there is no world 'plants'"),
    ],
)
def test_an_ablation_of_nothing_is_one_sentence(
    hb_forked: Command, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    done = hb_forked("hb-distill", "ablate", "nothing", *arguments, cwd=tmp_path)
    assert_refused(done, status, "hb-distill", message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_ablation_needs_what_comes_before_a_student(hb_forked: Command, tmp_path: Path) -> None:
    unpack(CARRIED.parent / "judge", tmp_path)
    done = hb_forked("hb-distill", "ablate", tmp_path)
    assert_refused(done, 2, "hb-distill", f"{tmp_path} has no teacher yet: run that stage first")


@pytest.mark.slow  # trains every stage
def test_the_whole_recipe_ends_in_a_bundle_that_is_judged(
    hb_forked: Command, forked: Command, tmp_path: Path
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    recipe = ["--world", "cartoons", "--recipe", "tiny", "--device", "cpu"]
    options = ["--budget", "16s", "--scored", 4, "--pack", tmp_path / "carried"]
    made = hb_forked("hb-distill", "all", run, *recipe, *options)
    assert made.returncode == 0, made.stderr
    stages = ["--vae-encoder", "--precision", "fp32"]
    built = hb_forked("hb-export", "build", run / "student", bundle, *stages)
    assert built.returncode == 0, built.stderr
    manifest = Bundle.open(bundle).manifest
    prompts = manifest.prompts
    assert len(prompts) == PROMPTS
    student = json.loads((run / "student" / "config.json").read_text(encoding="utf-8"))
    assert manifest.model.temporal_noise == student["temporal_noise"] > 0
    tokenizer = Tokenizer(bundle / "tokenizer", TINY.teacher.text.context_length)
    assert not [prompt for prompt in prompts if tokenizer(prompt).unknown]
    asked = ["--world", "cartoons", "--judge", run, "--captions", 2, "--frames", 5, "--json"]
    asked += ["--device", "cpu", "--precision", "fp32"]
    scored = hb_forked("hb-distill", "score", bundle, *asked)
    assert scored.returncode == 0, scored.stderr
    scores = json.loads(scored.stdout)
    assert scores["captions"] == 2
    assert set(scores["accuracy"]) == {"noun", "ground", "path", "size", "action", "all"}
    assert set(scores["quality"]) == {"subject consistency", "flicker", "smoothness"}
    asked = ["--world", "cartoons", "--judge", run, "--clips", 2]
    measured = hb_forked("hb-distill", "judge", bundle, *asked)
    assert measured.returncode == 0, measured.stderr
    assert "after the VAE\n| attribute | right, of 2 |" in measured.stdout
    card = ["--world", "cartoons", "--bundle", bundle, "--captions", 3]
    carded = hb_forked("hb-distill", "card", run, tmp_path / "card", *card)
    assert carded.returncode == 0, carded.stderr
    page = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    for line in ("## Stages", "| teacher |", "## Failures", "samples.png", "Microsoft"):
        assert line in page
    teacher = json.loads((run / "scores.json").read_text(encoding="utf-8"))["teacher"]
    assert set(teacher) == set(scores)
    asked = ["--budget", "1s", "--captions", 2, "--device", "cpu"]
    ablated = hb_forked("hb-distill", "ablate", run, *asked)
    assert ablated.returncode == 0, ablated.stderr
    found = json.loads((run / "ablation.json").read_text(encoding="utf-8"))
    assert set(found) >= variants(TINY, has_critic=True).keys()
    assert found["stage 1, not pruned"]["unet_parameters"] > found["stage 1"]["unet_parameters"]
    assert found["teacher in a student's steps"]["unet_passes"] == 8
    assert found["student"] != found["student, noise left in"]
    assert not (run / "ablation" / "stage-1-1s-0" / "consistency.pt").exists()
    before = (run / "ablation.json").stat().st_mtime_ns
    again = hb_forked("hb-distill", "ablate", run, *asked)
    assert again.stdout.endswith(ablation_table(found) + "\n")
    assert (run / "ablation.json").stat().st_mtime_ns == before
    script = Path(__file__).parents[2] / "benchmarks" / "adapter.py"
    few = ["--clips", "2", "--steps", "2", "--captions", "2", "--bundle", str(bundle)]
    program = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], {}, '__main__')"
    taught = forked(program, str(script), str(run), *few, cwd=tmp_path)
    assert taught.returncode == 0, taught.stderr
    rows = Record.read(tmp_path / "adapter.json").rows
    assert [row.name for row in rows] == ["rendered", "student", "with the adapter of 2 clips"]
    assert rows[2].median("training_s") > 0
    assert "spider seen, of 2" in taught.stdout
    later = ["--stages", "clips,matching,consistency,decoder,score", "--scored", "4"]
    later += ["--budget", "4s"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [tmp_path / "next", *recipe, "--unpack", tmp_path / "carried", *later]
    again = subprocess.run(
        [*torchrun, "-m", "hummingbird_edge.distill", "all", *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "next" / "student" / "config.json").exists()
    assert "student" in json.loads((tmp_path / "next" / "scores.json").read_text("utf-8"))


def test_what_has_not_ended_is_not_gone_on_from(tmp_path: Path, sprites: Sprites) -> None:
    session = Session(tmp_path, TINY, sprites, torch.device("cpu"), 0, {})
    times = {"spent_s": 1.0, "budget_s": 4.0}
    Run(tmp_path, "teacher").save({**times, "config": {}, "average": {}})
    with pytest.raises(RequestError, match="a teacher that had 25 % of its time: run that stage"):
        session.teacher()


@pytest.mark.parametrize(
    "stages",
    [
        '{"vae": 5}',
        '{"vae": {"step": 1}}',
        '["vae"]',
        '{"vae": {"step": 1, "config": {}, "share": 7}}',
    ],
)
def test_odd_metadata_of_carried_weights_is_refused(tmp_path: Path, stages: str) -> None:
    save_file({"vae/x": torch.zeros(1)}, tmp_path / "weights-0.safetensors", {"stages": stages})
    with pytest.raises(CheckpointError, match="fetch all its files anew"):
        unpack(tmp_path, tmp_path / "run")


def test_weights_of_no_stage_are_refused(tmp_path: Path) -> None:
    metadata = {"stages": json.dumps({"../x": {"step": 1, "config": {}}})}
    save_file({"../x/y": torch.zeros(1)}, tmp_path / "weights-0.safetensors", metadata)
    with pytest.raises(CheckpointError):
        unpack(tmp_path, tmp_path / "run")
