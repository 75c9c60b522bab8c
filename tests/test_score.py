"""Scores: rendered clips are all right, wrong ones are not, and what is scored was never seen."""

import random

import numpy as np
import pytest

from hummingbird_edge.distill.evaluation import FIRST_SEED, Scores, evaluate, evaluate_judge
from hummingbird_edge.distill.recipe import SHAPES_RECIPE
from hummingbird_edge.distill.score import (
    ShapesEvaluation,
    rendered,
    score_clips,
    unseen_captions,
)
from hummingbird_edge.distill.stages.watch import watched_captions
from hummingbird_edge.distill.world.shapes.captions import sample_training
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.pipeline import TextToVideo
from tests.conftest import SHAPES

WORLD = SHAPES_RECIPE.world


@pytest.mark.slow
def test_rendered_clips_are_right_and_swapped_ones_are_not() -> None:
    rng = random.Random(0)
    scenes = [WORLD.draw(rng) for _ in range(24)]
    clips = rendered(scenes, WORLD)
    scores = score_clips(clips, scenes, WORLD)
    assert scores.captions == 24
    assert set(scores.accuracy.values()) == {1.0}
    assert set(scores.quality.values()) == {1.0}
    swapped = score_clips(np.roll(clips, 1, axis=0), scenes, WORLD)
    assert swapped.accuracy["all"] < 0.1
    assert swapped.accuracy["count"] == 1.0
    noisy = clips.astype(float) + np.random.default_rng(0).normal(0, 8, clips.shape)
    found = score_clips(noisy.clip(0, 255).astype(np.uint8), scenes, WORLD)
    assert found.quality["flicker"] < 0.9


@pytest.mark.slow
def test_the_judge_reads_what_a_vae_makes() -> None:
    found = evaluate_judge(Bundle.open(SHAPES), ShapesEvaluation(WORLD), 40, seed=5)
    assert found["rendered"].accuracy["all"] >= 0.99
    assert found["after the VAE"].accuracy["all"] >= 0.97


@pytest.mark.slow
def test_scored_captions_were_never_trained_on_or_watched() -> None:
    scored = {text for _, text in unseen_captions(WORLD, 400, 0)}
    watched = {text for _, text in watched_captions(WORLD)}
    rng = random.Random(0)
    scenes = [WORLD.draw(rng) for _ in range(4000)]
    trained = set(sample_training(scenes, rng))
    assert len(scored) == 400
    assert scored.isdisjoint(watched)
    assert scored.isdisjoint(trained)


@pytest.mark.slow
def test_a_bundle_is_scored_through_the_runtime() -> None:
    pipeline = TextToVideo.from_bundle(SHAPES, device="cpu")
    seen: list[tuple[int, int]] = []
    scores = evaluate(pipeline, ShapesEvaluation(WORLD), 3, 0, lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    pairs = unseen_captions(WORLD, 3, 0)
    clips = [pipeline(text, seed=FIRST_SEED + i).frames for i, (_, text) in enumerate(pairs)]
    assert scores == score_clips(np.stack(clips), [scene for scene, _ in pairs], WORLD)


def test_the_table_names_every_figure() -> None:
    table = Scores(8, {"colour": 1.0, "all": 0.875}, {"motion_smoothness": 0.5}).table()
    for line in ("| colour | 100.0 % |", "| all | 87.5 % |", "| motion smoothness | 50.0 % |"):
        assert line in table.splitlines()
