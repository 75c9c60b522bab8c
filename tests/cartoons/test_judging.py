"""Who judges the cartoons: the judge, its figures, scores and the card."""

import dataclasses
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hummingbird_edge.distill.cartoons import judging
from hummingbird_edge.distill.cartoons.card import confusions
from hummingbird_edge.distill.cartoons.judging import read_judge
from hummingbird_edge.distill.cartoons.reward import JudgeReward
from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.world.cartoons import quality
from hummingbird_edge.distill.world.cartoons.judge import (
    Judge,
    JudgeConfig,
    Verdict,
    frechet_distance,
)
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import (
    GROUNDS,
    PATHS,
    SIZES,
    Shot,
    is_held_out,
)
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.runtime.errors import CheckpointError, RequestError
from tests.cartoons.conftest import FEW, WORLD, assert_learns, generator, shot

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_a_judge_reads_its_own_labels_and_learns(sprites: Sprites) -> None:
    torch.manual_seed(0)
    world = dataclasses.replace(WORLD, resolution=128)
    judge = Judge(JudgeConfig.of(world))
    stage = judging.JudgeStage(judge, world, sprites, 1)
    assert_learns(stage, steps=10, rate=2e-3)
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--world", "clay"], "no world 'clay'"),
        (["--world", "shapes"], "the built-in model knows cartoons, not shapes"),
        (["mine", "--world", "shapes", "--judge", "."], "--judge is for --world cartoons"),
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


@pytest.fixture
def evaluation(sprites: Sprites) -> CartoonsEvaluation:
    torch.manual_seed(0)
    return CartoonsEvaluation(Judge(JudgeConfig.of(WORLD)).eval(), WORLD, sprites)


@pytest.mark.parametrize("frames", [16, 26])
def test_rendered_clips_score_as_rendered_clips(
    frames: int, evaluation: CartoonsEvaluation
) -> None:
    shots = [shot for shot, _ in evaluation.sample(3, seed=5)]
    clips = evaluation.render(shots, frames, WORLD.resolution)
    scores = evaluation.score(clips, shots)
    assert scores.captions == 3
    assert scores.quality["smoothness"] == pytest.approx(1, abs=0.01)
    assert scores.frechet == pytest.approx(0, abs=1e-3)
    shaken = clips[:, np.random.default_rng(0).permutation(frames)]
    worse = evaluation.score(shaken, shots)
    assert worse.quality["subject consistency"] < scores.quality["subject consistency"]
    verdicts = evaluation.examine(clips, shots)[1]
    for name, share in scores.accuracy.items():
        right = [v.score(shot)[name] for v, shot in zip(verdicts, shots, strict=True)]
        assert share == pytest.approx(sum(right) / 3)


def test_what_cannot_be_judged_is_a_sentence(evaluation: CartoonsEvaluation) -> None:
    shots = [shot for shot, _ in evaluation.sample(1, seed=5)]
    clips = evaluation.render(shots, WORLD.frames, WORLD.resolution)
    assert evaluation.score(clips, shots).frechet is None  # one clip has no covariance
    for odd in (clips[:, :2], clips[:, :, :, :32]):
        with pytest.raises(RequestError, match="cannot be judged"):
            evaluation.score(odd, shots)
    with pytest.raises(RequestError, match="ask for fewer"):
        evaluation.sample(2000, seed=5)


def test_a_judge_knows_nouns_that_no_model_has_seen() -> None:
    config = JudgeConfig.of(WORLD, ("robot",))
    evaluation = CartoonsEvaluation.by(Judge(config))
    assert config.nouns == (*FEW, "robot")
    assert evaluation.world.nouns == FEW
    assert evaluation.sprites.nouns == config.nouns
    assert {target.noun for target, _ in evaluation.sample(40, seed=1)} <= {*FEW}
    stage = judging.JudgeStage(Judge(config), WORLD, evaluation.sprites, 1)
    assert {stage.world.draw(random.Random(i)).noun for i in range(40)} == {*FEW, "robot"}
    assert int(stage.trained.labels([shot("robot")])["noun"]) == len(FEW)


def test_sampled_shots_are_held_out_and_different(evaluation: CartoonsEvaluation) -> None:
    shots = [shot for shot, _ in evaluation.sample(40, seed=5)]
    assert len(set(shots)) == 40
    assert all(is_held_out(shot) for shot in shots)


@pytest.mark.parametrize(
    "change",
    [
        {"nouns": ["cat", "zyzzyva"]},
        {"paths": []},
        {"colour": 3},
        {"width": "wide"},
        {"unseen": ["robot"]},
    ],
)
def test_a_judge_of_another_world_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    config = JudgeConfig.of(WORLD)
    known, weights = dataclasses.asdict(config), Judge(config).state_dict()
    Run(tmp_path, "judge").save({"config": known, "average": weights, "step": 1})
    assert read_judge(tmp_path).config == config
    Run(tmp_path, "judge").save({"config": {**known, **change}, "average": weights, "step": 1})
    with pytest.raises(CheckpointError, match=r"judge\.pt is a judge of another shape"):
        read_judge(tmp_path)


def test_confused_nouns_are_counted() -> None:
    shots = [Shot("cat", "still", "large", "snow"), Shot("cat", "left", "large", "snow")]
    seen = [Verdict(dataclasses.replace(shot, noun="dog"), True) for shot in shots]
    assert "| cat | dog | 2 | 2 |" in confusions(shots, seen)
    right = [Verdict(shot, True) for shot in shots]
    assert confusions(shots, right) == "Every noun was seen as it was asked for."
