"""Rewards: they prefer the right clip, their gradients improve a wrong one."""

import random
from pathlib import Path

import pytest
import torch

from hummingbird_edge.distill.train.reward import load_reward
from hummingbird_edge.distill.train.scorer import ContrastiveReward, Scorer, ScorerStage
from hummingbird_edge.distill.world.shapes.captions import describe, words
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.reward import ShapesReward
from hummingbird_edge.distill.world.shapes.scene import FULL, Scene, World
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.tokenizer import Tokenizer

SMALL = World(resolution=32, frames=6)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    Vocabulary.clip().restricted_to(words()).write(folder, 77)
    return Tokenizer(folder)


def drawn(scenes: list[Scene]) -> torch.Tensor:
    return render(scenes, SMALL, torch.Generator().manual_seed(0))


def test_shapes_reward_prefers_the_right_clip_in_every_attribute() -> None:
    rng, reward = random.Random(0), ShapesReward()
    scene = Scene.of("red", "square", "large", "right", "black")
    caption = [describe(scene, rng)]
    best = float(reward(drawn([scene]), caption))
    assert best > -0.05
    for wrong in (
        Scene.of("blue", "square", "large", "right", "black"),
        Scene.of("red", "square", "small", "right", "black"),
        Scene.of("red", "square", "large", "left", "black"),
        Scene.of("red", "square", "large", "bouncing", "black"),
        Scene.of("red", "square", "large", "right", "white"),
    ):
        assert float(reward(drawn([wrong]), caption)) < best - 0.01, wrong


def test_right_clips_of_all_scenes_score_high() -> None:
    scenes, rng = random.Random(1).sample(FULL.scenes(), 64), random.Random(0)
    captions = [describe(scene, rng) for scene in scenes]
    right = ShapesReward()(drawn(scenes), captions)
    wrong = ShapesReward()(drawn(scenes[1:] + scenes[:1]), captions)
    assert right.min() > -0.08
    assert (right > wrong).float().mean() > 0.95


def test_shapes_reward_climbs_towards_what_was_asked() -> None:
    red, blue = (Scene.of(c, "circle", "large", "up", "white") for c in ("red", "blue"))
    reward, caption = ShapesReward(), ["a blue circle moving up on a white background"]
    frames = drawn([red]).requires_grad_(True)
    optimizer = torch.optim.Adam([frames], 0.05)
    before = float(reward(frames.detach(), caption))
    for _ in range(60):
        optimizer.zero_grad()
        (-reward(frames, caption).mean()).backward()
        optimizer.step()
    after = float(reward(frames.detach(), caption))
    assert after > before / 3
    far = (drawn([red]) - drawn([blue])).abs().mean()
    assert (frames.detach() - drawn([blue])).abs().mean() < far


def test_other_captions_are_refused() -> None:
    with pytest.raises(RequestError, match="only captions of moving shapes"):
        ShapesReward()(torch.zeros(1, 4, 3, 32, 32), ["a cat DJ at a party"])


def test_rewards_of_ones_own_are_imported() -> None:
    found: object = load_reward("hummingbird_edge.distill.world.shapes.reward:ShapesReward")
    assert found is ShapesReward
    for name in ("nowhere:reward", "math:reward", "math:pi", "shape"):
        with pytest.raises(RequestError, match="there is no reward"):
            load_reward(name)


@pytest.mark.slow
def test_the_scorer_learns_to_tell_clips_apart(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    world = World(
        colours=("red", "blue"), shapes=("circle",), sizes=("large",), motions=("right",),
        resolution=32, frames=4,
    )  # fmt: skip
    stage = ScorerStage(world, tokenizer, 16, torch.device("cpu"))
    optimizer = torch.optim.AdamW(stage.trained.parameters(), 2e-3)
    losses_seen = []
    for step in range(120):
        losses = stage(step, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        losses_seen.append(float(losses["loss"].detach()))
    assert sum(losses_seen[-10:]) / 10 < sum(losses_seen[:10]) / 10 - 0.5
    reward = ContrastiveReward(stage.trained, tokenizer)
    scenes = [Scene.of(c, "circle", "large", "right", "white") for c in ("red", "blue")]
    clips = render(scenes, world, torch.Generator().manual_seed(0)).requires_grad_(True)
    said = [f"a {c} circle moving right on a white background" for c in ("red", "blue")]
    right, wrong = reward(clips, said), reward(clips, said[::-1])
    assert (right > wrong).all()
    right.sum().backward()
    assert clips.grad is not None
    assert clips.grad.abs().max() > 0


def test_a_scorer_must_be_trained_first(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="run hb-distill scorer"):
        ContrastiveReward.read(tmp_path, tokenizer, torch.device("cpu"))
    assert Scorer(10).video(torch.zeros(1, 2, 3, 32, 32)).shape == (1, 64)
