"""The two samplers, in NumPy: multistep latent consistency for students, DDIM for teachers.

One step of latent consistency turns noisy latents x_t and the network's output into clean ones

    x0       = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)
    denoised = c_out(t) x0 + c_skip(t) x_t
    x_prev   = sqrt(alpha_bar_prev) denoised + sqrt(1 - alpha_bar_prev) noise

with the consistency model's boundary scalings, s = t / 0.1 and sigma_data = 0.5:

    c_skip = sigma_data^2 / (s^2 + sigma_data^2)      c_out = s / sqrt(s^2 + sigma_data^2)

One step of DDIM, without new noise, is

    eps    = (x_t - sqrt(alpha_bar_t) x0) / sqrt(1 - alpha_bar_t)
    x_prev = sqrt(alpha_bar_prev) x0 + sqrt(1 - alpha_bar_prev) eps

Sources: Luo et al. 2023 (arXiv:2310.04378), algorithm 3 and appendix; Li et al. 2024
(arXiv:2405.18750), T2V-Turbo; Song et al. 2021 (arXiv:2010.02502), equation 12 with eta = 0; the
spacings of timesteps are named as in Lin et al. 2024 (arXiv:2305.08891); the guidance-scale
embedding is Meng et al. 2023 (arXiv:2210.03142).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Sampler", "Step", "guidance_embedding", "sample"]

Latents = NDArray[np.float32]
_MAX_TRAIN_STEPS = 100_000


@dataclass(frozen=True)
class Sampler:
    """The noise schedule and what the network predicts; the defaults are the published ones."""

    prediction_type: str = "epsilon"
    """`epsilon` (noise), `v_prediction` (Salimans & Ho 2022, arXiv:2202.00512) or `sample` (x0)."""
    method: str = "lcm"
    """`lcm` (latent consistency) or `ddim`."""
    spacing: str = "trailing"
    """Where the timesteps of N steps lie: `trailing` from 999 on (latent consistency takes no
    other), `leading` from 1 upwards, as VideoCrafter2 was sampled."""
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
        known = {("lcm", "trailing"), ("ddim", "trailing"), ("ddim", "leading")}
        if (self.method, self.spacing) not in known:
            raise ValueError(f"unknown sampler {self.method!r} with {self.spacing!r} timesteps")
        if not _MAX_TRAIN_STEPS >= self.train_steps >= self.grid_steps >= 1:
            raise ValueError(f"{self.grid_steps} steps of {self.train_steps} timesteps")
        if not 0 < self.beta_start < self.beta_end < 1:
            raise ValueError(f"betas from {self.beta_start} to {self.beta_end}")
        if not (0 < self.sigma_data < 1e9 and 0 < self.timestep_scaling < 1e9):
            raise ValueError(f"sigma_data {self.sigma_data}, scaling {self.timestep_scaling}")

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
                f"{steps} sampling steps were requested: choose 1 to {self.grid_steps}"
            )
        if self.spacing == "leading":
            stride = self.train_steps // steps
            return [1 + stride * i for i in range(steps - 1, -1, -1)]
        if self.method == "ddim":
            return [round(self.train_steps * i / steps) - 1 for i in range(steps, 0, -1)]
        stride = self.train_steps // self.grid_steps
        grid = [stride * i - 1 for i in range(self.grid_steps, 0, -1)]
        return grid[:: self.grid_steps // steps][:steps]

    def predict_x0(self, x_t: Latents, output: Latents, t: int) -> Latents:
        """Return the x0 that the network's `output` means, shaped like `x_t`."""
        alpha, sigma = self._scales(t)
        match self.prediction_type:
            case "epsilon":
                return np.asarray((x_t - sigma * output) / alpha, np.float32)
            case "v_prediction":
                return alpha * x_t - sigma * output
            case _:
                return output

    def denoise(self, x_t: Latents, output: Latents, t: int) -> Latents:
        """Return the consistency function's value: clean latents, shaped like `x_t`."""
        x0 = self.predict_x0(x_t, output, t)
        s = t * self.timestep_scaling
        c_skip = np.float32(self.sigma_data**2 / (s**2 + self.sigma_data**2))
        c_out = np.float32(s / (s**2 + self.sigma_data**2) ** 0.5)
        return c_out * x0 + c_skip * x_t

    def predict_eps(self, x_t: Latents, x0: Latents, t: int) -> Latents:
        """Return the noise that is left when `x0` is taken out of `x_t`.

        Models that predict v or x0 are trained here with noise alone at the last timestep.
        """
        if t == self.train_steps - 1 and self.prediction_type != "epsilon":
            return x_t
        alpha, sigma = self._scales(t)
        return np.asarray((x_t - alpha * x0) / sigma, np.float32)

    def add_noise(self, denoised: Latents, noise: Latents, t_prev: int) -> Latents:
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
        """Return the next latents and the denoised ones.

        The last step of DDIM, and a single one of latent consistency, end in the denoised latents;
        DDIM does not use `noise`.
        """
        sampler = self.sampler
        if sampler.method == "ddim":
            x0 = sampler.predict_x0(x_t, output, self.t)
            if self.index == self.count - 1:
                return x0, x0
            return sampler.add_noise(x0, sampler.predict_eps(x_t, x0, self.t), self.t_prev), x0
        denoised = sampler.denoise(x_t, output, self.t)
        if self.count == 1:
            return denoised, denoised
        return sampler.add_noise(denoised, noise, self.t_prev), denoised


def sample(
    denoiser: Callable[[Latents, int], Latents],
    sampler: Sampler,
    steps: int,
    x_T: Latents,
    noise: Callable[[int], Latents],
    taken: int = 0,
) -> Iterator[tuple[Step, Latents, Latents]]:
    """Take `steps` from pure noise `x_T`, yielding each step, its latents and its denoised ones.

    `denoiser` returns the network's output for latents and a timestep, `noise` the Gaussian noise
    of a step by its index; all arrays are shaped like `x_T`. After `taken` steps of before, `x_T`
    are the latents that the last of them left. Luo et al. 2023, algorithm 3.
    """
    x_t = x_T
    for step in islice(sampler.steps(steps), taken, None):
        x_t, denoised = step(x_t, denoiser(x_t, step.t), noise(step.index))
        yield step, x_t, denoised


def guidance_embedding(guidance: float, width: int) -> NDArray[np.float32]:
    """Embed the guidance scale w as (1, width) float32: 1000 w, sines first, then cosines.

    Computed in float32 as the published code does: at 1000 w the rounding shows.
    """
    half = width // 2
    step = np.float32(np.log(10000.0) / (half - 1))
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
    angles = np.float32(guidance) * np.float32(1000.0) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)])[None, :]
