"""Gaussian noise that a seed fixes on every engine, platform and NumPy version.

NumPy promises the raw bits of its generators for good, but not its normal variates, so these are
made here: Philox bits (Salmon et al. 2011), then the Box-Muller transform in float64, whose
rounding to float32 hides what mathematical libraries disagree on, but for a rare last bit.
"""

import math
from dataclasses import dataclass

import numpy as np

# By name: NumPy would load its generators at first use, while a Ctrl-C is dropped by them.
from numpy.random import Philox, SeedSequence
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Noise", "gaussian_noise"]


def gaussian_noise(shape: tuple[int, ...], seed: int, draw: int) -> NDArray[np.float32]:
    """Return standard normal noise of `shape`, float32.

    `seed` is any integer of at least 0; `draw` tells the arrays of one video apart (0 for the
    initial latents, then one for each step), so that each is the same whoever drew before.
    """
    count = math.prod(shape)
    pairs = (count + 1) // 2
    bits = Philox(SeedSequence([seed, draw])).random_raw(2 * pairs)
    # 53 bits make a float64 in (0, 1]; the logarithm never sees 0.
    uniform = ((bits >> np.uint64(11)) + np.uint64(1)) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
    angle = 2.0 * np.pi * uniform[pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].astype(np.float32).reshape(shape)


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """The noise of one video: drawn from its seed, or given."""

    shape: tuple[int, ...]
    """Of latents, (1, C, T, h, w)."""
    steps: int
    seed: int
    initial: NDArray[np.float32] | None = None
    """In the place of the first draw, of `shape`."""
    each_step: NDArray[np.float32] | None = None
    """In the place of the others, (steps, *shape)."""

    def __post_init__(self) -> None:
        _check("initial_noise", self.initial, self.shape)
        _check("step_noise", self.each_step, (self.steps, *self.shape))

    @property
    def is_given(self) -> bool:
        """Whether the seed does not tell all of it."""
        return self.initial is not None or self.each_step is not None

    def x_T(self) -> NDArray[np.float32]:
        """Return the pure noise that sampling starts from."""
        return gaussian_noise(self.shape, self.seed, 0) if self.initial is None else self.initial

    def of_step(self, index: int) -> NDArray[np.float32]:
        """Return the noise that step `index` adds."""
        if self.each_step is not None:
            given: NDArray[np.float32] = self.each_step[index]
            return given
        return gaussian_noise(self.shape, self.seed, 1 + index)


def _check(name: str, noise: NDArray[np.float32] | None, shape: tuple[int, ...]) -> None:
    if noise is None:
        return
    if noise.shape != shape:
        raise RequestError(f"{name} has shape {noise.shape}, this video needs {shape}")
    if noise.dtype != np.float32 or not np.isfinite(noise).all():
        raise RequestError(f"{name} must be finite float32, got {noise.dtype}: convert it")
