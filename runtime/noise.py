"""Gaussian noise that a seed fixes on every engine, platform and NumPy version.

NumPy promises the raw bits of its generators for good, but not its normal variates, so these are
made here: Philox bits (Salmon et al. 2011), then the Box-Muller transform in float64, whose
rounding to float32 hides what mathematical libraries disagree on, but for a rare last bit.
"""

import math

import numpy as np

# By name: NumPy would load its generators at first use, while a Ctrl-C is dropped by them.
from numpy.random import Philox, SeedSequence
from numpy.typing import NDArray

__all__ = ["gaussian_noise"]


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
