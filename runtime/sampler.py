"""The multistep latent-consistency sampler, in NumPy.

One step turns noisy latents x_t and the network's output into the denoised latents

    x0       = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)
    denoised = c_out(t) x0 + c_skip(t) x_t
    x_prev   = sqrt(alpha_bar_prev) denoised + sqrt(1 - alpha_bar_prev) noise

with the consistency model's boundary scalings, s = t / 0.1 and sigma_data = 0.5:

    c_skip = sigma_data^2 / (s^2 + sigma_data^2)      c_out = s / sqrt(s^2 + sigma_data^2)

Sources: Luo et al. 2023 (arXiv:2310.04378), algorithm 3 and appendix; Li et al. 2024
(arXiv:2405.18750), T2V-Turbo; the guidance-scale embedding is Meng et al. 2023
(arXiv:2210.03142).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Sampler", "Step", "guidance_embedding"]

Latents = NDArray[np.float32]


@dataclass(frozen=True)
class Sampler:
    """The noise schedule and what the network predicts; the defaults are the published ones."""

    prediction_type: str = "epsilon"
    """`epsilon` (noise), `v_prediction` (Salimans & Ho 2022, arXiv:2202.00512) or `sample` (x0)."""
    train_steps: int = 1000
    """Timesteps of the diffusion process the network was trained on."""
    beta_start: float = 0.00085
    beta_end: float = 0.012
    grid_steps: int = 50
    """Timesteps of the grid that the sampler picks from; also the most steps it can take."""
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"unknown prediction type {self.prediction_type!r}")
        if not self.train_steps >= self.grid_steps >= 1:
            raise ValueError(f"{self.grid_steps} steps of {self.train_steps} timesteps")
        if not 0 < self.beta_start < self.beta_end < 1:
            raise ValueError(f"betas from {self.beta_start} to {self.beta_end}")

    @cached_property
    def alpha_bar(self) -> NDArray[np.float32]:
        """(train_steps,) float32: the share of the signal's variance left at each timestep.

        Rounded as the published table is, whose square roots of beta are spaced in float32 from
        both ends: at t = 999 the noise is multiplied by 15, and a last bit shows.
        """
        first, last = np.float32(self.beta_start**0.5), np.float32(self.beta_end**0.5)
        spacing = np.float64((last - first) / np.float32(self.train_steps - 1))
        index = np.arange(self.train_steps)
        rising = first + spacing * index
        falling = last - spacing * index[::-1]
        root = np.where(index < self.train_steps // 2, rising, falling)
        kept = 1 - np.square(root.astype(np.float32))
        return np.cumprod(kept, dtype=np.float64).astype(np.float32)

    def timesteps(self, steps: int) -> list[int]:
        """Return `steps` timesteps, noisiest first; raises RequestError outside 1 to 50."""
        if not 1 <= steps <= self.grid_steps:
            raise RequestError(
                f"{steps} sampling steps were asked for: choose 1 to {self.grid_steps}"
            )
        stride = self.train_steps // self.grid_steps
        grid = [stride * i - 1 for i in range(self.grid_steps, 0, -1)]
        return grid[:: self.grid_steps // steps][:steps]

    def denoise(self, x_t: Latents, output: Latents, t: int) -> Latents:
        """Return the consistency function's value: clean latents, shaped like `x_t`."""
        alpha, sigma = self._scales(t)
        x0: Latents
        match self.prediction_type:
            case "epsilon":
                x0 = np.asarray((x_t - sigma * output) / alpha, np.float32)
            case "v_prediction":
                x0 = alpha * x_t - sigma * output
            case _:
                x0 = output
        s = t * self.timestep_scaling
        c_skip = np.float32(self.sigma_data**2 / (s**2 + self.sigma_data**2))
        c_out = np.float32(s / (s**2 + self.sigma_data**2) ** 0.5)
        return c_out * x0 + c_skip * x_t

    def renoise(self, denoised: Latents, noise: Latents, t_prev: int) -> Latents:
        """Return latents as noisy as timestep `t_prev` has them."""
        alpha, sigma = self._scales(t_prev)
        return alpha * denoised + sigma * noise

    def _scales(self, t: int) -> tuple[np.float32, np.float32]:
        """Return how much of signal and of noise the latents of timestep `t` hold."""
        alpha_bar = self.alpha_bar[t]
        return np.sqrt(alpha_bar), np.sqrt(np.float32(1) - alpha_bar)

    def steps(self, steps: int) -> Iterator["Step"]:
        """Iterate over the steps of one video."""
        timesteps = self.timesteps(steps)
        for index, (t, t_prev) in enumerate(_pairs(timesteps)):
            yield Step(self, index, len(timesteps), t, t_prev)


def _pairs(timesteps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pair each timestep with the next one, the last with itself."""
    yield from zip(timesteps, [*timesteps[1:], timesteps[-1]], strict=True)


@dataclass(frozen=True)
class Step:
    """One step: `t` is where the latents are, `t_prev` where they go."""

    sampler: Sampler
    index: int
    count: int
    t: int
    t_prev: int

    def __call__(self, x_t: Latents, output: Latents, noise: Latents) -> tuple[Latents, Latents]:
        """Return the next latents and the denoised ones; a single step adds no noise."""
        denoised = self.sampler.denoise(x_t, output, self.t)
        if self.count == 1:
            return denoised, denoised
        return self.sampler.renoise(denoised, noise, self.t_prev), denoised


def guidance_embedding(guidance: float, width: int) -> NDArray[np.float32]:
    """Embed the guidance scale w as (1, width) float32: 1000 w, sines first, then cosines.

    Computed in float32 as the published code does: at 1000 w the rounding shows.
    """
    half = width // 2
    step = np.float32(np.log(10000.0) / (half - 1))
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
    angles = np.float32(guidance) * np.float32(1000.0) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)])[None, :]
