"""The judge, on clips whose answer is known."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.judge import ATTRIBUTES, Verdict, judge, score
from hummingbird_edge.distill.world import FULL, Scene, render

Clips = NDArray[np.uint8]

SCENES = random.Random(7).sample(FULL.scenes(), 400)


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


@pytest.fixture(scope="module")
def drawn() -> NDArray[np.float32]:
    clips = render(SCENES, FULL, torch.Generator().manual_seed(7))
    pixels: NDArray[np.float32] = clips.permute(0, 1, 3, 4, 2).numpy()
    return pixels


def accuracy(clips: Clips) -> dict[str, float]:
    right: Counter[str] = Counter()
    for scene, clip in zip(SCENES, clips, strict=False):
        right.update(score(judge(clip), asked(scene)))
    return {name: right[name] / len(clips) for name in ATTRIBUTES}


def asked(scene: Scene) -> dict[str, str]:
    return {name: getattr(scene, name) for name in ATTRIBUTES}


def test_judge_reads_what_was_drawn(drawn: NDArray[np.float32]) -> None:
    found = accuracy(as_bytes(drawn))
    assert min(found.values()) >= 0.99, found


def test_judge_reads_soft_noisy_clips(drawn: NDArray[np.float32]) -> None:
    found = accuracy(as_bytes(soft_and_noisy(drawn[:200])))
    assert min(found.values()) >= 0.97, found


@pytest.mark.parametrize("level", [0, 128, 255])
def test_judge_cannot_tell_on_an_empty_clip(level: int) -> None:
    assert judge(np.full((16, 64, 64, 3), level, dtype=np.uint8)) == Verdict()


def test_judge_cannot_tell_on_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    assert judge(noise) == Verdict()


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
    assert (verdict.colour, verdict.shape, verdict.motion) == ("red", "circle", "right")
    assert (verdict.size, verdict.background, verdict.count) == ("small", "black", 1)
    assert verdict.path[0] == pytest.approx((20.5 / 64, 32.5 / 64), abs=0.01)
    assert verdict.path[-1] == pytest.approx((35.5 / 64, 32.5 / 64), abs=0.01)


def test_judge_counts_two_objects_and_names_no_motion_for_a_still() -> None:
    clip = np.full((16, 64, 64, 3), 255, dtype=np.uint8)
    clip[:, disc(16, 32)] = (20, 60, 240)
    clip[:, disc(46, 32)] = (20, 60, 240)
    verdict = judge(clip)
    assert (verdict.count, verdict.motion, verdict.background) == (2, None, "white")


def test_score_compares_only_what_was_asked() -> None:
    verdict = Verdict(colour="red", shape="star")
    assert score(verdict, {"colour": "red", "shape": "cross"}) == {"colour": True, "shape": False}
    with pytest.raises(ValueError, match="flavour"):
        score(verdict, {"flavour": "sweet"})
