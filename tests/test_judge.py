"""The judge, on clips whose answer is known."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.world.shapes.judge import ATTRIBUTES, Seen, Verdict, judge, score
from hummingbird_edge.distill.world.shapes.quality import Quality, assess
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import FULL, PAIRS, Scene, World
from hummingbird_edge.runtime.pipeline import TextToVideo
from tests.conftest import SHAPES

Clips = NDArray[np.uint8]

SHORT = replace(FULL, frames=8)
WORLDS = {"alone": FULL, "short": SHORT, "pairs": replace(PAIRS, pairs=1.0)}


def as_bytes(clips: NDArray[np.float32]) -> Clips:
    return np.round(np.clip(clips, 0, 1) * 255).astype(np.uint8)


def soft_and_noisy(clips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur by 0.7 pixels and add noise of 4 / 255."""
    taps = np.exp(-np.square(np.arange(-2, 3)) / (2 * 0.7**2)).astype(np.float32)
    taps /= taps.sum()
    noise = np.random.default_rng(0).standard_normal(clips.shape, dtype=np.float32) * (4 / 255)
    for axis in (2, 3):
        blurred = np.zeros_like(clips)
        for shift, tap in zip(range(-2, 3), taps, strict=True):
            blurred += tap * np.roll(clips, shift, axis)
        clips = blurred
    return clips + noise


def draw(world: World, n: int) -> tuple[list[Scene], NDArray[np.float32]]:
    rng = random.Random(7)
    scenes = [world.draw(rng) for _ in range(n)]
    clips = render(scenes, world, torch.Generator().manual_seed(7))
    return scenes, clips.permute(0, 1, 3, 4, 2).numpy()


def right(scene: Scene, clip: Clips) -> dict[str, bool]:
    actors = [{name: getattr(a, name) for name in ATTRIBUTES[1:]} for a in scene.actors]
    return score(judge(clip), scene.background, actors)


def accuracy(scenes: list[Scene], clips: Clips) -> dict[str, float]:
    counted: Counter[str] = Counter()
    for scene, clip in zip(scenes, clips, strict=True):
        counted.update(right(scene, clip))
    return {name: counted[name] / len(clips) for name in counted}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_judge_reads_what_was_drawn(name: str) -> None:
    scenes, clips = draw(WORLDS[name], 100)
    found = accuracy(scenes, as_bytes(clips))
    assert min(found.values()) >= 0.99, found
    assert set(found) == {*ATTRIBUTES, "count", "all"}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_judge_reads_soft_noisy_clips(name: str) -> None:
    scenes, clips = draw(WORLDS[name], 50)
    found = accuracy(scenes, as_bytes(soft_and_noisy(clips)))
    assert min(found.values()) >= 0.97, found


@pytest.mark.slow
def test_judge_says_where_things_are() -> None:
    scenes, clips = draw(WORLDS["pairs"], 40)
    for scene, clip in zip(scenes, as_bytes(clips), strict=True):
        first, second = judge(clip).actors
        assert first.colour == scene.actors[0].colour
        axis = 1 if scene.relation == "above" else 0
        assert np.mean(first.path, axis=0)[axis] < 0.5 < np.mean(second.path, axis=0)[axis]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_judge_cannot_tell_on_an_empty_clip(level: int) -> None:
    assert judge(np.full((16, 64, 64, 3), level, dtype=np.uint8)) == Verdict()


def test_judge_cannot_tell_on_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    assert judge(noise) == Verdict()
    assert assess(noise) == Quality()


def disc(x: float, y: float, radius: float = 8) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:64, :64]
    inside: NDArray[np.bool_] = np.hypot(columns - x, rows - y) < radius
    return inside


def test_judge_measures_the_path_and_ignores_a_speck() -> None:
    clip = np.zeros((16, 64, 64, 3), dtype=np.uint8)
    for t, frame in enumerate(clip):
        frame[disc(20 + t, 32)] = (230, 25, 25)
        frame[5:7, 40:42] = (230, 25, 25)
    verdict = judge(clip)
    (seen,) = verdict.actors
    assert (seen.colour, seen.shape, seen.motion, seen.size) == ("red", "circle", "right", "small")
    assert (verdict.background, verdict.count) == ("black", 1)
    assert seen.path[0] == pytest.approx((20.5 / 64, 32.5 / 64), abs=0.01)
    assert seen.path[-1] == pytest.approx((35.5 / 64, 32.5 / 64), abs=0.01)


def test_judge_counts_two_of_a_colour_and_names_no_motion_for_a_still() -> None:
    clip = np.full((16, 64, 64, 3), 255, dtype=np.uint8)
    clip[:, disc(16, 32)] = (20, 60, 240)
    clip[:, disc(46, 32)] = (20, 60, 240)
    verdict = judge(clip)
    assert (verdict.count, verdict.background) == (2, "white")
    assert verdict.actors[0].motion is None


def test_score_wants_every_actor_in_order_and_no_more() -> None:
    red, blue = Seen("red", "star", "small", "right"), Seen("blue", "cross", "small", "left")
    asked = [
        {"colour": "red", "shape": "star", "size": "small", "motion": "right"},
        {"colour": "blue", "shape": "cross", "size": "small", "motion": "left"},
    ]
    assert all(score(Verdict("black", (red, blue), 2), "black", asked).values())
    swapped = score(Verdict("black", (blue, red), 2), "black", asked)
    assert (swapped["colour"], swapped["size"], swapped["all"]) == (False, True, False)
    missing = score(Verdict("black", (red,), 1), "black", asked)
    assert (missing["background"], missing["colour"], missing["count"]) == (True, False, False)


def test_quality_is_near_one_on_rendered_clips_and_falls_with_each_fault() -> None:
    _, drawn = draw(SHORT, 12)
    whole = [assess(clip) for clip in as_bytes(drawn)]
    assert min(score.subject_consistency for score in whole) > 0.99
    assert min(score.flicker for score in whole) > 0.99
    flickering = 0.9 * drawn + np.array([0.0, 0.04] * 4, np.float32)[:, None, None, None]
    assert max(assess(clip).flicker for clip in as_bytes(flickering)) < 0.7
    # Every second frame from another clip: another subject.
    mixed = drawn.copy()
    mixed[:, 1::2] = np.roll(drawn, 1, axis=0)[:, 1::2]
    before = np.mean([score.subject_consistency for score in whole])
    after = np.mean([assess(clip).subject_consistency for clip in as_bytes(mixed)])
    assert after < before - 0.2
    shaken = np.stack([np.roll(f, 6 * (t % 2), 1) for t, f in enumerate(drawn.swapaxes(0, 1))], 1)
    moved = [assess(clip).motion_smoothness for clip in as_bytes(shaken)]
    assert np.mean(moved) < np.mean([score.motion_smoothness for score in whole]) - 0.2


@pytest.mark.slow
def test_judge_reads_clips_that_a_model_makes() -> None:
    """Decoded frames, not rendered ones, are what the judge is for."""
    clip = TextToVideo.from_bundle(SHAPES, device="cpu")("a red circle moving right").frames
    seen = judge(clip).actors[0]
    assert (seen.colour, seen.shape, seen.motion) == ("red", "circle", "right")
