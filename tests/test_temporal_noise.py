"""Temporal noise: averaged away where a clip stands still, and nothing else is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.manifest import ModelMetadata
from hummingbird_edge.runtime.decoder import decode, decoder_input
from hummingbird_edge.runtime.media.temporal_noise import (
    H2,
    PATCH,
    measure_temporal_noise,
    remove_temporal_noise,
)

Floats = NDArray[np.float32]
SIGMA = 0.06
SHAPE = (1, 4, 16, 16, 16)


def still_clip(seed: int = 0) -> Floats:
    """Return latents of a ground that has detail in every place and stands still."""
    frame = np.random.default_rng(seed).standard_normal((1, 4, 1, 16, 16))
    return np.repeat(frame, SHAPE[2], axis=2).astype(np.float32)


def with_noise(clip: Floats, seed: int = 1) -> Floats:
    noise = np.random.default_rng(seed).standard_normal(clip.shape)
    return (clip + SIGMA * noise).astype(np.float32)


def error(found: Floats, truth: Floats) -> float:
    return float(np.sqrt(np.square(found - truth).mean()))


def by_definition(x: "NDArray[Any]", sigma: float) -> "NDArray[Any]":
    """Return what the formula says, place by place, for x (C, T, h, w)."""
    edge = PATCH // 2
    padded = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)), mode="edge")
    _, count, height, width = x.shape
    found = np.zeros_like(x)
    for t, row, column in np.ndindex(count, height, width):
        window = padded[:, :, row : row + PATCH, column : column + PATCH]
        d2 = np.square(window - window[:, t : t + 1]).mean((0, 2, 3))
        weights = np.exp(-np.maximum(d2 - 2 * sigma**2, 0) / (H2 * sigma**2))
        found[:, t, row, column] = (x[:, :, row, column] * weights).sum(1) / weights.sum()
    return found


def test_it_is_non_local_means_over_time() -> None:
    x = np.random.default_rng(3).standard_normal((2, 4, 5, 6)).astype(np.float32)
    found = remove_temporal_noise(x[None], 0.8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], by_definition(x.astype(np.float64), 0.8), atol=1e-5)


def test_without_noise_nothing_is_done() -> None:
    clip = with_noise(still_clip())
    assert remove_temporal_noise(clip, 0.0) is clip
    assert remove_temporal_noise(clip, 1e-30) is clip  # its square would be 0
    one = clip[:, :, :1]
    np.testing.assert_array_equal(remove_temporal_noise(one, SIGMA), one)
    assert measure_temporal_noise(one) == 0


def test_what_stands_still_loses_its_noise_and_keeps_its_detail() -> None:
    truth = still_clip()
    noisy = with_noise(truth)
    assert measure_temporal_noise(noisy) == pytest.approx(SIGMA, rel=0.05)
    left = error(remove_temporal_noise(noisy, SIGMA), truth)
    assert left < 0.4 * SIGMA  # the mean of 16 frames, which knows that all is still, has 0.25
    assert left > 0.2 * SIGMA


def test_what_moves_leaves_no_ghosts() -> None:
    truth = still_clip()
    for t in range(SHAPE[2]):
        truth[:, :, t, 6:10, t : t + 3] = 2.0
    noisy = with_noise(truth)
    found = remove_temporal_noise(noisy, SIGMA)
    assert np.abs(found - truth).max() <= np.abs(noisy - truth).max()
    assert error(found, truth) < 0.6 * SIGMA
    assert measure_temporal_noise(noisy) == pytest.approx(SIGMA, rel=0.1)


def test_clips_of_a_batch_are_apart() -> None:
    one, two = with_noise(still_clip(0)), with_noise(still_clip(1), 2)
    found = remove_temporal_noise(np.concatenate([one, two]), SIGMA)
    expected = [remove_temporal_noise(clip, SIGMA) for clip in (one, two)]
    np.testing.assert_array_equal(found, np.concatenate(expected))


def test_two_scenes_are_not_mixed() -> None:
    truth = np.concatenate([still_clip(0)[:, :, :8], still_clip(5)[:, :, :8]], axis=2)
    assert error(remove_temporal_noise(with_noise(truth), SIGMA), truth) < 0.5 * SIGMA


@pytest.mark.parametrize("is_scaled", [False, True])
def test_frames_are_decoded_of_what_is_left(is_scaled: bool) -> None:
    model = ModelMetadata(4, 8, 4, 0.5, 77, 16, None, temporal_noise=SIGMA)
    noisy = with_noise(still_clip())

    def run(inputs: "Mapping[str, NDArray[Any]]") -> Floats:
        return np.asarray(inputs["latent_sample"], np.float32)

    frames = list(decode(decoder_input(noisy, model, is_scaled), run, lambda: 5))
    factor = np.float32(1.0 if is_scaled else 0.5)
    expected = remove_temporal_noise(noisy, SIGMA)[0].transpose(1, 0, 2, 3) / factor
    np.testing.assert_array_equal(np.concatenate(frames), expected)
