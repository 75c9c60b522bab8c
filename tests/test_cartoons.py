"""The cartoons world: its catalog and captions, what is drawn, and training within a budget."""

import dataclasses
import io
import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from hummingbird_edge.distill.cartoons import autoencoder, delivery, judging
from hummingbird_edge.distill.cartoons.budget import (
    Schedule,
    TimedStage,
    fit_budget,
    parse_budget,
    rate_at,
    set_gradients,
)
from hummingbird_edge.distill.cartoons.card import confusions
from hummingbird_edge.distill.cartoons.delivery import pack, unpack
from hummingbird_edge.distill.cartoons.judging import read_judge
from hummingbird_edge.distill.cartoons.pool import draw_clips, read_shots, write_shots
from hummingbird_edge.distill.cartoons.recipe import RECIPE, RECIPES, SMALL, TINY, Recipe
from hummingbird_edge.distill.cartoons.reward import JudgeReward
from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation
from hummingbird_edge.distill.cartoons.teacher import Learner, without_time
from hummingbird_edge.distill.cartoons.train import share_out
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.sampling import generate
from hummingbird_edge.distill.world.cartoons import quality
from hummingbird_edge.distill.world.cartoons.catalog import CATALOG, NOUNS, SPRITES_FOLDER
from hummingbird_edge.distill.world.cartoons.curate_sprites import fit_frames, write_sprite
from hummingbird_edge.distill.world.cartoons.judge import (
    Judge,
    JudgeConfig,
    Verdict,
    frechet_distance,
)
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import (
    DARK_GROUNDS,
    GROUNDS,
    PATHS,
    SCENES,
    SIZES,
    Shot,
    World,
    describe,
    is_held_out,
    words,
)
from hummingbird_edge.distill.world.cartoons.sprites import LOOP, Sprites, read_frames
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import CheckpointError, RequestError

Command = Callable[..., "subprocess.CompletedProcess[str]"]

FEW = ("cat", "rocket", "spider")
WORLD = World(nouns=FEW, resolution=64)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Train as the commands do: two threads beside other work wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return Sprites.read(FEW)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shot(
    noun: str = "cat", path: str = "still", size: str = "large", ground: str = "white"
) -> Shot:
    return Shot(noun, path, size, ground)


def centres(alpha: Tensor) -> Tensor:
    """Return the sprite's centre in each frame of a clip's alpha (K, 1, H, W): (K, 2) x and y."""
    axis = torch.linspace(0, 1, alpha.shape[-1])
    mass = alpha.sum((1, 2, 3))
    x = (alpha.sum((1, 2)) * axis).sum(1) / mass
    y = (alpha.sum((1, 3)) * axis).sum(1) / mass
    return torch.stack((x, y), 1)


def test_the_world_is_as_large_as_promised() -> None:
    assert len(CATALOG) >= 120
    assert len(SCENES) >= 10
    assert len(PATHS) >= 8
    assert len(SIZES) == 2


def test_every_name_means_one_noun() -> None:
    names = [name for noun in CATALOG for name in noun.names]
    assert len(names) == len(set(names))


def test_every_noun_has_its_sprite_and_no_sprite_is_left_over() -> None:
    files = {path.name for path in SPRITES_FOLDER.glob("*.webp")}
    assert files == {noun.file for noun in CATALOG}
    assert sum(path.stat().st_size for path in SPRITES_FOLDER.iterdir()) < 25e6
    assert "Microsoft Corporation" in (SPRITES_FOLDER / "LICENSE").read_text(encoding="utf-8")


def test_a_sprite_moves_and_is_centred() -> None:
    frames = read_frames(SPRITES_FOLDER / NOUNS["cat"].file)
    assert len(frames) == LOOP
    assert {frame.size for frame in frames} == {(128, 128)}
    assert len({frame.tobytes() for frame in frames}) > LOOP // 2


def test_a_sprite_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cat\.webp cannot be read"):
        Sprites.read(["cat"], folder=tmp_path)


def test_fitted_frames_share_one_box() -> None:
    frames = [Image.new("RGBA", (64, 64)) for _ in range(2)]
    frames[0].paste((255, 0, 0, 255), (10, 10, 20, 20))
    frames[1].paste((0, 0, 255, 255), (30, 10, 40, 20))
    first, second = fit_frames(frames, side=32)
    left, right = first.getchannel("A").getbbox(), second.getchannel("A").getbbox()
    assert left is not None
    assert right is not None
    assert left[2] < right[0]  # what moved inside of the box still does
    assert (left[0] + right[2]) == pytest.approx(32, abs=2)


def test_a_picture_becomes_a_sprite(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (256, 256)) for _ in range(8)]
    for index, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (10 * index, 50, 10 * index + 40, 90))
    picture = io.BytesIO()
    frames[0].save(picture, "WEBP", save_all=True, append_images=frames[1:], duration=42)
    noun = dataclasses.replace(NOUNS["cat"], noun="red box")
    write_sprite(noun, picture.getvalue(), tmp_path)
    loop = read_frames(tmp_path / "red-box.webp")
    boxes = [frame.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox() for frame in loop]
    assert len(boxes) == LOOP
    lefts = [box[0] for box in boxes if box is not None]
    assert lefts == sorted(lefts)
    assert lefts[0] < 6
    assert lefts[-1] > 70


def test_dark_sprites_stay_off_dark_grounds_and_combinations_are_held_out() -> None:
    rng = random.Random(0)
    drawn = [World().draw(rng, held_out) for held_out in (False, True) for _ in range(500)]
    assert not [x for x in drawn if NOUNS[x.noun].is_dark and x.ground in DARK_GROUNDS]
    assert [is_held_out(x) for x in drawn] == [False] * 500 + [True] * 500
    # Held out are combinations: neither size nor wording changes that.
    assert is_held_out(drawn[-1]) == is_held_out(dataclasses.replace(drawn[-1], size="small"))


def test_one_combination_in_ten_is_held_out() -> None:
    shots = [
        shot(noun, path, ground=ground)
        for noun in ("dog", "train")
        for path in PATHS
        for ground in GROUNDS
    ]
    assert 0.05 < sum(map(is_held_out, shots)) / len(shots) < 0.15


def test_captions_use_known_words_and_many_wordings() -> None:
    rng, known = random.Random(0), words()
    for _ in range(500):
        text = describe(World().draw(rng), rng)
        assert set(text.replace(",", "").split()) <= known, text
    x = shot("rabbit", "left", "small", "snow")
    texts = {describe(x, rng) for _ in range(300)}
    assert len(texts) > 50
    assert any("bunny" in text for text in texts)
    assert all(any(f"{word} " in f"{text} " for word in SIZES["small"]) for text in texts)


def test_captions_fit_the_text_encoder(tmp_path: Path) -> None:
    rng, tokenizer = random.Random(0), RECIPE.tokenizer(tmp_path)
    captions = [describe(World().draw(rng), rng) for _ in range(300)]
    assert max(int((tokenizer(text).ids != 0).sum()) for text in captions) <= 26
    assert len({tuple(tokenizer(text).ids) for text in captions}) == len(set(captions))


def test_a_plural_and_a_vowel_get_their_article() -> None:
    rng = random.Random(0)
    texts = [describe(shot("elephant"), rng) for _ in range(200)]
    assert any("an elephant" in text for text in texts)
    assert not any("a elephant" in text for text in texts)
    texts = [describe(shot("music notes"), rng) for _ in range(200)]
    assert not any(f"{article} music" in text for text in texts for article in ("a", "an"))


@pytest.mark.parametrize(
    ("path", "axis", "sign"),
    [("left", 0, -1), ("right", 0, 1), ("rising", 1, -1), ("sinking", 1, 1)],
)
def test_a_path_leads_where_it_says(path: str, axis: int, sign: int, sprites: Sprites) -> None:
    alpha = render([shot(path=path, size="small")], WORLD, sprites, generator()).alpha[0]
    steps = centres(alpha)[:, axis].diff() * sign
    assert (steps > 0).sum() >= WORLD.frames - 3  # the sprite's own motion sways it a little
    assert steps.sum() > 0.3


def test_coming_closer_grows_and_moving_away_shrinks(sprites: Sprites) -> None:
    shots = [shot("rocket", "closer"), shot("rocket", "away")]
    area = render(shots, WORLD, sprites, generator()).alpha.sum((2, 3, 4))
    assert area[0, -1] > 3 * area[0, 0]
    assert area[1, 0] > 3 * area[1, -1]


def test_small_is_smaller_than_large(sprites: Sprites) -> None:
    shots = [shot("rocket", size=size) for size in ("small", "large")]
    area = render(shots, WORLD, sprites, generator()).alpha.sum((1, 2, 3, 4))
    assert 2 * area[0] < area[1]


def test_a_walker_faces_its_way(sprites: Sprites) -> None:
    still = dataclasses.replace(WORLD, jitter=0.0)
    frames = [
        render([shot("cat", path)], still, sprites, generator(), frames=torch.tensor([[at]])).alpha
        for path, at in (("left", 0), ("right", 15))
    ]
    # On the same side of the frame, one is the other's mirror image but for its own motion.
    left, right = frames[0][0, 0, 0], frames[1][0, 0, 0]
    width = left.shape[1] // 2
    assert (left - right).abs().mean() > 0.02
    assert left[:, width:].sum() > left[:, :width].sum()
    assert right[:, width:].sum() > right[:, :width].sum()


def test_a_frozen_sprite_moves_along_its_path_alone(sprites: Sprites) -> None:
    world = dataclasses.replace(WORLD, jitter=0.0)
    clips = render([shot(), shot()], world, sprites, generator(), frozen=[True, False]).frames
    change = clips.diff(dim=1).abs().mean((1, 2, 3, 4))
    assert change[0] == 0
    assert change[1] > 0.005


def test_every_ground_is_drawn_and_none_looks_like_another(sprites: Sprites) -> None:
    shots = [shot("rocket", size="small", ground=ground) for ground in GROUNDS]
    frames = render(
        shots, WORLD, sprites, generator(), frames=torch.zeros(len(shots), 1).long()
    ).frames
    assert frames.min() >= 0
    assert frames.max() <= 1
    looks = nn.functional.adaptive_avg_pool2d(frames[:, 0], 4).flatten(1)
    distance = torch.cdist(looks, looks) + 9 * torch.eye(len(looks))
    assert distance.min() > 0.2


def test_clips_are_a_function_of_their_seed(sprites: Sprites) -> None:
    shots = [shot(path="arc", ground="forest")]
    first, again = (render(shots, WORLD, sprites, generator(3)).frames for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, render(shots, WORLD, sprites, generator(4)).frames)


def test_some_frames_of_a_clip_are_drawn_as_in_the_whole(sprites: Sprites) -> None:
    shots = [shot(path="bouncing", ground="beach")]
    whole = render(shots, WORLD, sprites, generator()).frames
    part = render(shots, WORLD, sprites, generator(), frames=torch.tensor([[2, 9]])).frames
    torch.testing.assert_close(part, whole[:, [2, 9]])


def test_windows_and_whole_frames_draw_the_same(sprites: Sprites) -> None:
    shots = [shot("cat", "arc"), shot("rocket", "closer", ground="street"), shot("spider", "left")]
    one, other = (
        render(shots, WORLD, sprites, generator(), in_windows=in_windows)
        for in_windows in (True, False)
    )
    torch.testing.assert_close(one.frames, other.frames, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.alpha, other.alpha, atol=1e-4, rtol=0)


def test_a_crop_holds_the_sprite(sprites: Sprites) -> None:
    drawn = autoencoder.sample_frames(WORLD, sprites, 8, generator())
    frames, alpha = drawn.frames.flatten(0, 1), drawn.alpha.flatten(0, 1)
    _, cut = autoencoder.crop_around(frames, alpha, 32, generator())
    assert cut.shape == (8, 1, 32, 32)
    assert (cut.mean((1, 2, 3)) > alpha.mean((1, 2, 3))).all()


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
    pack_as(run, "vae", budget_s=2.0)
    unpack(tmp_path / "carried", tmp_path / "other")
    carried = Line()
    fit_budget(Run(tmp_path / "other", "vae"), carried, schedule, 0.2, 0)
    assert 0.4 <= carried.shares[0] < 0.9


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
    optimizer = torch.optim.AdamW(stage.trained.parameters(), 3e-3)
    losses = []
    for step in range(12):
        loss = stage(step, generator())["loss"]  # the same frames each time
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    figures = autoencoder.measure_vae(stage.trained, stage.world, sprites, 8)
    parts = (figures["sprite_db"], figures["ground_db"])
    assert min(parts) <= figures["psnr_db"] <= max(parts)
    assert autoencoder.psnr(torch.full((9,), 0.01)) == 20


@pytest.mark.slow
def test_a_judge_reads_its_own_labels_and_learns(sprites: Sprites) -> None:
    torch.manual_seed(0)
    world = dataclasses.replace(WORLD, resolution=128)
    judge = Judge(JudgeConfig.of(world))
    stage = judging.JudgeStage(judge, world, sprites, 1)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3)
    losses = []
    for step in range(10):
        loss = stage(step, generator())["loss"]  # the same frames each time
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    labels = judge.labels([shot("rocket", "left", "small", "sea")])
    assert {name: int(x) for name, x in labels.items()} == {
        "noun": FEW.index("rocket"),
        "ground": GROUNDS.index("sea"),
        "path": list(PATHS).index("left"),
        "size": list(SIZES).index("small"),
    }


@pytest.mark.slow
def test_a_reward_prefers_what_was_asked_for(sprites: Sprites) -> None:
    torch.manual_seed(0)
    judge = Judge(JudgeConfig.of(WORLD)).eval().requires_grad_(False)
    right, wrong = shot("cat", "left"), shot("rocket", "rising", "small", "sea")
    frames = render([right], WORLD, sprites, generator()).frames.requires_grad_(True)
    with torch.no_grad():  # a judge that says what is right
        for name, label in judge.labels([right]).items():
            getattr(judge, name).bias[int(label)] += 3
    reward = JudgeReward(judge, {"right": right, "wrong": wrong})
    first, second = reward(frames, ["right"]), reward(frames, ["wrong"])
    assert first.shape == (1,)
    assert first > second
    first.sum().backward()
    assert frames.grad is not None
    assert frames.grad.abs().sum() > 0


def test_a_pool_knows_what_its_captions_ask_for(sprites: Sprites, tmp_path: Path) -> None:
    world = dataclasses.replace(WORLD, resolution=32, frames=2)
    vae = VAE(TINY.teacher.vae).eval()
    clips, shots = draw_clips(vae, world, sprites, 5, 60, 0)
    assert clips.latents.shape == (5, TINY.teacher.vae.latent_channels, 2, 8, 8)
    assert clips.latents.float().std() == pytest.approx(1, abs=0.05)
    assert not any(map(is_held_out, shots))
    write_shots(shots, tmp_path / "shots.json")
    assert read_shots(clips, tmp_path / "shots.json")[clips.captions[3][0]] == shots[3]


def test_a_verdict_is_scored_by_attribute() -> None:
    score = Verdict(shot("cat", "left"), is_acting=True).score(shot("cat", "right"))
    assert score == {
        "noun": True,
        "ground": True,
        "path": False,
        "size": True,
        "action": True,
        "all": False,
    }


def test_the_frechet_distance_is_that_of_gaussians() -> None:
    x = torch.randn(4000, 3, generator=generator(1), dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    # N(0, 1) against N(2, 3^2) on each of three axes: 3 (2^2 + (3 - 1)^2) = 24.
    assert frechet_distance(x, 3 * x + 2) == pytest.approx(24, rel=0.05)


def test_degraded_clips_stay_near_what_they_were(sprites: Sprites) -> None:
    frames = render([shot() for _ in range(12)], WORLD, sprites, generator()).frames
    degraded = judging.degrade(frames, generator(5))
    error = (degraded - frames).abs().mean((1, 2, 3, 4))
    assert (error > 0).all()
    assert (error < 0.15).all()


def test_quality_tells_a_steady_clip_from_a_flickering_and_a_jerky_one() -> None:
    t, axis = torch.arange(8.0), torch.arange(16.0)
    steady = torch.exp(-((axis - 2 - t[:, None]).square()) / 4)  # (T, 16) a blob moving right
    jerky = steady[torch.tensor([0, 4, 1, 6, 2, 7, 3, 5])]
    blob = torch.exp(-((axis - 8).square()) / 4)[:, None]
    assert quality.smoothness((blob * steady[:, None])[None]) > 0.95
    assert quality.smoothness((blob * jerky[:, None])[None]) == 0
    frames, nowhere = torch.full((1, 8, 3, 64, 64), 0.5), torch.zeros(1, 8, 16, 16)
    assert quality.stillness(frames, nowhere) == 1
    frames[:, ::2] += 0.02
    assert quality.stillness(frames, nowhere) == pytest.approx(0.6, abs=0.01)
    one = torch.randn(1, 1, 9, generator=generator()).expand(-1, 8, -1)
    assert quality.consistency(one) == pytest.approx(1)
    assert quality.consistency(torch.randn(1, 8, 9, generator=generator())) < 0.5


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
        (("--world", "clouds"), "there is no world 'clouds': choose shapes or cartoons"),
        (("--budget", "9m"), "--budget is for --world cartoons: leave it out"),
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
    assert (back["share"], unfinished["share"]) == (0, 0.25)
    assert back["config"] == {"width": 8}
    for name, tensor in average.items():
        torch.testing.assert_close(back["average"][name], tensor, atol=2e-3, rtol=1e-3)


def test_carried_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks files of carried weights"):
        unpack(tmp_path, tmp_path / "run")


@pytest.mark.slow
def test_the_trained_vae_is_good_enough_for_what_comes_next(tmp_path: Path) -> None:
    weights = Path(__file__).parents[1] / "distill" / "cartoons" / "weights" / "small"
    assert unpack(weights, tmp_path) == ["vae", "teacher"]
    state = Run(tmp_path, "vae").load()
    assert state is not None
    vae = VAE(SMALL.teacher.vae)
    vae.load_state_dict(state["average"])
    every = Sprites.read(SMALL.world.nouns, torch.device("cpu"))
    found = autoencoder.measure_vae(vae.eval(), SMALL.world, every, count=48)
    assert found["psnr_db"] >= 31, found
    assert found["sprite_db"] >= 27, found


@pytest.mark.slow
def test_the_teacher_that_is_half_trained_follows_its_captions(tmp_path: Path) -> None:
    weights = Path(__file__).parents[1] / "distill" / "cartoons" / "weights" / "small"
    unpack(weights, tmp_path)
    state, vae_state = (Run(tmp_path, name).load() for name in ("teacher", "vae"))
    assert state is not None
    assert vae_state is not None
    assert 0.4 < state["share"] < 1
    config = ModelConfig.from_dict(state["config"])
    config = dataclasses.replace(config, defaults=dataclasses.replace(config.defaults, frames=1))
    learner, vae = Learner(config, SMALL.world), VAE(config.vae)
    learner.load_state_dict(state["average"])
    vae.load_state_dict(vae_state["average"])
    tokenizer = SMALL.tokenizer(tmp_path)
    model = Model(config, learner.text, learner.unet, vae, tokenizer).frozen()
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "black": (0, 0, 0)}
    captions = [f"a small cat on a {colour} background" for colour in colours]
    with without_time(model.unet):
        frames = generate(model, captions, steps=6, seed=3)[:, 0]
    corners = frames[:, :6, :6].mean((1, 2))
    painted = np.array(list(colours.values()))
    nearest = ((corners[:, None] - painted) ** 2).sum(-1).argmin(1)
    assert nearest.tolist() == [0, 1, 2, 3]


@pytest.mark.slow  # trains every stage
def test_the_whole_recipe_ends_in_a_bundle_that_is_judged(hb: Command, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    recipe = ["--world", "cartoons", "--recipe", "tiny", "--device", "cpu"]
    made = hb("hb-distill", "all", run, *recipe, "--budget", "16s", "--scored", 4)
    assert made.returncode == 0, made.stderr
    built = hb("hb-export", "build", run / "student", bundle, "--precision", "fp32")
    assert built.returncode == 0, built.stderr
    asked = ["--world", "cartoons", "--judge", run, "--captions", 2, "--frames", 5, "--json"]
    scored = hb("hb-distill", "score", bundle, *asked)
    assert scored.returncode == 0, scored.stderr
    scores = json.loads(scored.stdout)
    assert scores["captions"] == 2
    assert set(scores["accuracy"]) == {"noun", "ground", "path", "size", "action", "all"}
    assert set(scores["quality"]) == {"subject consistency", "flicker", "smoothness"}
    card = ["--world", "cartoons", "--bundle", bundle, "--captions", 3]
    carded = hb("hb-distill", "card", run, tmp_path / "card", *card)
    assert carded.returncode == 0, carded.stderr
    page = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    for line in ("## Stages", "| teacher |", "## Failures", "samples.png", "Microsoft"):
        assert line in page
    teacher = json.loads((run / "scores.json").read_text(encoding="utf-8"))["teacher"]
    assert set(teacher) == set(scores)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--world", "clay"], "no world 'clay'"),
        (["--world", "cartoons"], "needs --judge"),
        (["--judge", "."], "--judge is for --world cartoons"),
        (["--world", "cartoons", "--judge", "nothing"], "there is no judge in nothing"),
    ],
)
def test_wrong_worlds_and_judges_are_a_sentence(
    hb: Command, tmp_path: Path, options: list[str], said: str
) -> None:
    done = hb("hb-distill", "score", *options, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def pixels(shots: list[Shot], world: World, sprites: Sprites) -> NDArray[np.uint8]:
    drawn = render(shots, world, sprites, generator()).frames
    clips: NDArray[np.uint8] = (drawn * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    return clips


@pytest.fixture
def evaluation(sprites: Sprites) -> CartoonsEvaluation:
    torch.manual_seed(0)
    return CartoonsEvaluation(Judge(JudgeConfig.of(WORLD)).eval(), WORLD, sprites)


@pytest.mark.parametrize("frames", [16, 26])
def test_rendered_clips_score_as_rendered_clips(
    frames: int, evaluation: CartoonsEvaluation, sprites: Sprites
) -> None:
    shots = [shot for shot, _ in evaluation.sample(3, seed=5)]
    clips = pixels(shots, dataclasses.replace(WORLD, frames=frames), sprites)
    scores = evaluation.score(clips, shots)
    assert scores.captions == 3
    assert scores.quality["smoothness"] == pytest.approx(1, abs=0.01)
    assert scores.frechet == pytest.approx(0, abs=1e-3)
    shaken = clips[:, np.random.default_rng(0).permutation(frames)]
    worse = evaluation.score(shaken, shots)
    assert worse.quality["subject consistency"] < scores.quality["subject consistency"]
    verdicts = evaluation.look(clips)
    for name, share in scores.accuracy.items():
        right = [v.score(shot)[name] for v, shot in zip(verdicts, shots, strict=True)]
        assert share == pytest.approx(sum(right) / 3)


def test_what_cannot_be_judged_is_a_sentence(
    evaluation: CartoonsEvaluation, sprites: Sprites
) -> None:
    shots = [shot for shot, _ in evaluation.sample(1, seed=5)]
    clips = pixels(shots, WORLD, sprites)
    assert evaluation.score(clips, shots).frechet is None  # one clip has no covariance
    for odd in (clips[:, :2], clips[:, :, :, :32]):
        with pytest.raises(RequestError, match="cannot be judged"):
            evaluation.score(odd, shots)
    with pytest.raises(RequestError, match="ask for fewer"):
        evaluation.sample(2000, seed=5)


def test_sampled_shots_are_held_out_and_different(evaluation: CartoonsEvaluation) -> None:
    shots = [shot for shot, _ in evaluation.sample(40, seed=5)]
    assert len(set(shots)) == 40
    assert all(is_held_out(shot) for shot in shots)


@pytest.mark.parametrize(
    "change",
    [{"nouns": ["cat", "zyzzyva"]}, {"paths": []}, {"colour": 3}, {"width": "wide"}],
)
def test_a_judge_of_another_world_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    config = JudgeConfig.of(WORLD)
    known, weights = dataclasses.asdict(config), Judge(config).state_dict()
    Run(tmp_path, "judge").save({"config": known, "average": weights, "step": 1})
    assert read_judge(tmp_path).config == config
    Run(tmp_path, "judge").save({"config": {**known, **change}, "average": weights, "step": 1})
    with pytest.raises(CheckpointError, match=r"judge\.pt is a judge of another shape"):
        read_judge(tmp_path)


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


def test_confused_nouns_are_counted() -> None:
    shots = [Shot("cat", "still", "large", "snow"), Shot("cat", "left", "large", "snow")]
    seen = [Verdict(dataclasses.replace(shot, noun="dog"), True) for shot in shots]
    assert "| cat | dog | 2 | 2 |" in confusions(shots, seen)
    right = [Verdict(shot, True) for shot in shots]
    assert confusions(shots, right) == "Every noun was seen as it was asked for."
