"""Quality of a video against a reference: PSNR and SSIM of frames, by scikit-image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

__all__ = ["Quality", "compare"]

_MAX_DB = 100.0
"""PSNR of equal frames, which has no end."""


@dataclass(frozen=True, slots=True)
class Quality:
    """PSNR and SSIM of several videos against their references."""

    psnr_db: tuple[float, ...]
    """Each video's, over all its pixels."""
    ssim: tuple[float, ...]
    """Each video's mean over its frames, at most 1."""

    @property
    def median_db(self) -> float:
        """The median PSNR."""
        return float(np.median(self.psnr_db))

    @property
    def median_ssim(self) -> float:
        """The median SSIM."""
        return float(np.median(self.ssim))


def compare(found: Sequence[NDArray[np.uint8]], references: Sequence[NDArray[np.uint8]]) -> Quality:
    """Compare videos (T, H, W, 3) uint8 with `references` of the same shapes.

    PSNR = 10 log10(255^2 / mean squared difference); SSIM of Wang et al. 2004 over an even window
    of 11 pixels, or the largest that fits a small frame.
    """
    psnr, ssim = [], []
    for video, reference in zip(found, references, strict=True):
        error = float(np.square(video.astype(np.float64) - reference).mean())
        psnr.append(min(_MAX_DB, 10 * float(np.log10(255**2 / max(error, 1e-12)))))
        window = min(11, min(video.shape[1:3]) // 2 * 2 - 1)
        pairs = zip(video, reference, strict=True)
        each = [structural_similarity(*pair, channel_axis=-1, win_size=window) for pair in pairs]
        ssim.append(float(np.mean(each)))
    return Quality(tuple(psnr), tuple(ssim))
