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
