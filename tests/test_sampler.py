"""The sampler, against the published table, the recorded steps and its own algebra."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.sampler import Sampler, guidance_embedding

Golden = dict[str, NDArray[Any]]

GRID = {20 * i - 1 for i in range(1, 51)}


def reference_alpha_bar() -> NDArray[np.float64]:
    """Return the paper's formula in float64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    products: NDArray[np.float64] = np.cumprod(1 - betas)
    return products


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_timesteps_are_the_recorded_ones(golden: Golden, steps: int) -> None:
    assert Sampler().timesteps(steps) == golden[f"sched{steps}_timesteps"].tolist()


@pytest.mark.parametrize("steps", range(1, 51))
def test_timesteps_descend_along_the_grid(steps: int) -> None:
    timesteps = Sampler().timesteps(steps)
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert set(timesteps) <= GRID


@pytest.mark.parametrize("steps", [-1, 0, 51])
def test_step_counts_outside_the_grid_are_refused(steps: int) -> None:
    with pytest.raises(RequestError, match=rf"^{steps} sampling steps .* choose 1 to 50$"):
        Sampler().timesteps(steps)


def test_alpha_bar_is_the_published_table() -> None:
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32)
    expected = torch.cumprod(1 - root**2, 0)
    found = Sampler().alpha_bar
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.numpy())
    np.testing.assert_allclose(found, reference_alpha_bar(), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_steps_match_the_recorded_ones(golden: Golden, count: int) -> None:
    x, outputs, noise, denoised = (
        golden[f"sched{count}_{part}"] for part in ("x", "model_output", "noise", "denoised")
    )
    steps = list(Sampler().steps(count))
    assert [(step.index, step.count) for step in steps] == [(i, count) for i in range(count)]
    for i, step in enumerate(steps):
        following, clean = step(x[i], outputs[i], noise[i])
        assert following.dtype == clean.dtype == np.float32
        np.testing.assert_allclose(clean, denoised[i], rtol=0, atol=1e-5)
        np.testing.assert_allclose(following, x[i + 1], rtol=0, atol=1e-5)


def test_last_step_stays_at_its_timestep() -> None:
    assert [(s.t, s.t_prev) for s in Sampler().steps(4)] == [
        (999, 759),
        (759, 519),
        (519, 279),
        (279, 279),
    ]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [999, 519, 19])
def test_a_perfect_network_gives_back_the_clean_latents(prediction: str, t: int) -> None:
    draw = np.random.default_rng(t)
    x0, noise = draw.standard_normal((2, 1, 4, 2, 3, 3))
    alpha, sigma = np.sqrt(reference_alpha_bar()[t]), np.sqrt(1 - reference_alpha_bar()[t])
    x_t = alpha * x0 + sigma * noise
    output = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0}
    c_skip = 0.25 / ((10 * t) ** 2 + 0.25)
    c_out = 10 * t / ((10 * t) ** 2 + 0.25) ** 0.5
    found = Sampler(prediction).denoise(
        x_t.astype(np.float32), output[prediction].astype(np.float32), t
    )
    # At t = 999 a network that predicts noise is divided by alpha, about 0.07.
    np.testing.assert_allclose(found, c_out * x0 + c_skip * x_t, rtol=0, atol=1e-4)


def test_guidance_embedding_is_the_recorded_one(golden: Golden) -> None:
    for w, expected in zip(
        golden["guidance_embedding_w"], golden["guidance_embedding"], strict=True
    ):
        found = guidance_embedding(float(w), 256)
        assert found.shape == (1, 256)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-3)


def test_guidance_embedding_is_sines_then_cosines() -> None:
    frequencies = np.exp(-np.log(10000) * np.arange(128) / 127)
    angles = 1000 * 2.5 * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(guidance_embedding(2.5, 256)[0], expected, rtol=0, atol=1e-3)


def test_ddim_recovers_the_clip_from_a_network_that_knows_it() -> None:
    """With the true noise as the prediction every step stays on the straight path to x0."""
    draw = np.random.default_rng(0)
    x0, noise = (draw.standard_normal((1, 4, 2, 3, 3), np.float32) for _ in range(2))
    for spacing, first in (("leading", 981), ("trailing", 999)):
        sampler = Sampler(method="ddim", spacing=spacing)
        assert sampler.timesteps(50)[0] == first
        x_t = sampler.add_noise(x0, noise, first)
        for step in sampler.steps(50):
            x_t, denoised = step(x_t, noise, np.zeros_like(noise))
            np.testing.assert_allclose(denoised, x0, atol=2e-4)
            if step.index < 49:
                np.testing.assert_allclose(
                    x_t, sampler.add_noise(x0, noise, step.t_prev), atol=2e-4
                )
        np.testing.assert_array_equal(x_t, denoised)


def test_ddim_takes_the_published_timesteps() -> None:
    leading = Sampler(method="ddim", spacing="leading")
    assert leading.timesteps(50) == [20 * i + 1 for i in range(49, -1, -1)]
    assert leading.timesteps(4) == [751, 501, 251, 1]


def test_a_clip_is_taken_out_of_pure_noise_whole() -> None:
    """Models that predict v start from noise alone: x0 must not be taken out of it."""
    sampler = Sampler(prediction_type="v_prediction", method="ddim")
    draw = np.random.default_rng(0)
    x0, noise = (draw.standard_normal((1, 4, 2, 3, 3), np.float32) for _ in range(2))
    alpha, sigma = np.sqrt(sampler.alpha_bar[999]), np.sqrt(1 - sampler.alpha_bar[999])
    step = next(sampler.steps(50))
    x_prev, denoised = step(noise, (alpha * noise - x0) / sigma, noise)
    np.testing.assert_allclose(denoised, x0, atol=1e-5)
    np.testing.assert_allclose(x_prev, sampler.add_noise(x0, noise, 979), atol=1e-5)


@pytest.mark.parametrize(("method", "spacing"), [("lcm", "leading"), ("euler", "trailing")])
def test_unknown_samplers_are_refused(method: str, spacing: str) -> None:
    with pytest.raises(ValueError, match="unknown sampler"):
        Sampler(method=method, spacing=spacing)
