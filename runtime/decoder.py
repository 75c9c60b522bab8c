"""Latents to frames, a few at once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode"]

Floats = NDArray[np.float32]


def decode(
    latents: Floats,
    scaling_factor: float,
    run: Callable[[Mapping[str, NDArray[Any]]], Floats | None],
    chunk: Callable[[], int] = lambda: 1,
) -> Iterator[Floats]:
    """Yield RGB (n, 3, H, W) float32 in about [-1, 1] for latents (1, C, T, h, w) of diffusion.

    `run` takes the decoder's input by name, n frames as `chunk` says, and returns their pixels, or
    None where it must be asked again: it may then take another number. Latents are divided by
    `scaling_factor` first.
    """
    z = latents[0].transpose(1, 0, 2, 3) / np.float32(scaling_factor)
    start, count = 0, len(z)
    while start < count:
        # A session has one size: the last chunk repeats its last frame.
        rows = np.minimum(np.arange(start, start + chunk()), count - 1)
        frames = run({"latent_sample": np.ascontiguousarray(z[rows])})
        if frames is None:
            continue
        done = min(start + len(rows), count)
        yield frames[: done - start]
        start = done
