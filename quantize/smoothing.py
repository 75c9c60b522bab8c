"""SmoothQuant: moves range from activations to weights, channel by channel.

    W x = (W t) (x / t),    t_c = max|x_c|^a / max|W_c|^(1 - a)

An activation's single scale must cover its largest channel and leaves small channels few levels;
divided by t, all channels have similar ranges. This costs nothing at run time: QuantizeLinear takes
one scale per channel, S t_c instead of S, and W t is stored. For each activation and all its
readers the a with the least expected noise is used, if that is well below the noise of t = 1.

Source: Xiao et al. 2022 (arXiv:2211.10438), equations 3 and 4; there the layer before absorbs
t, which SiLU and skip concatenations rule out here.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["smoothing"]

Channels = NDArray[np.float32]

_STRENGTHS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
_PEAK_TO_RMS = 5.0
"""Of an activation's channel, for the noise that weights make; only extremes are known."""
_MIN_GAIN_DB = 2.0
"""Below, t is not worth it: a scale a channel makes OpenVINO's QuantizeLinear slower (a full-size
U-Net step 6.0 s instead of 5.1 where all convolutions had one)."""
_FLOOR = 1e-3
"""Of the largest channel: smaller ones count as this large."""


def smoothing(largest: Channels, weights: Iterable[NDArray[np.float32]]) -> Channels | None:
    """Return t (C,) for an activation with max|x_c| `largest`, or None where 1 is best.

    `weights` are those of the layers that read it, (O, C, K) each.
    """
    x = np.maximum(largest, max(_FLOOR * float(largest.max()), 1e-8)).astype(np.float64)
    stacked = [np.abs(weight) for weight in weights]
    rows = [weight.max(axis=2) for weight in stacked]
    w = np.max([row.max(axis=0) for row in rows], axis=0).astype(np.float64)
    w = np.maximum(w, max(_FLOOR * float(w.max()), 1e-8))
    energies = [np.einsum("ock,ock->oc", a, a).sum(axis=0, dtype=np.float64) for a in stacked]

    def noise(t: NDArray[np.float64]) -> float:
        scale = (x / t).max() / 127
        total = 0.0
        for energy, row, weight in zip(energies, rows, stacked, strict=True):
            total += float((np.square(scale * t) * energy).sum())
            steps = np.square((row * t).max(axis=1) / 127).sum()
            total += float(steps * weight.shape[2] * np.square(x / _PEAK_TO_RMS / t).sum())
        return total

    best, least = None, noise(np.ones_like(x)) * 10 ** (-_MIN_GAIN_DB / 10)
    for strength in _STRENGTHS:
        t = x**strength / w ** (1 - strength)
        t /= np.exp(np.log(t).mean())
        if (found := noise(t)) < least:
            best, least = t.astype(np.float32), found
    return best
