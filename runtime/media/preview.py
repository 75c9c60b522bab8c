"""What unfinished latents look like, at once: one matrix instead of the decoder.

    rgb = [z, 1] M        for every latent pixel z (C,), M (C + 1, 3)

The matrix is fitted to the decoder when the bundle is built. Users of Stable Diffusion found that
its latents allow this ("latent to RGB"); hues and brightness come out, edges do not.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_preview"]


def linear_preview(
    latents: NDArray[np.float32], matrix: NDArray[np.float32], scale: int = 4
) -> NDArray[np.uint8]:
    """Picture latents (1, C, T, h, w), scaled as in diffusion: (T, scale h, scale w, 3) uint8.

    `matrix` is (C + 1, 3), its last row the offset, and gives RGB in [-1, 1].
    """
    z = latents[0].transpose(1, 2, 3, 0)
    rgb = z @ matrix[:-1] + matrix[-1]
    pixels: NDArray[np.uint8] = np.clip(np.rint((rgb + 1) * 127.5), 0, 255).astype(np.uint8)
    enlarged: NDArray[np.uint8] = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    return enlarged
