"""Run the runtime's sampler and decoder with networks of the benchmark's choice."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.recording import Network
from hummingbird_edge.runtime.bundle.manifest import Manifest
from hummingbird_edge.runtime.decoder import decode
from hummingbird_edge.runtime.denoiser import Denoiser
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.sampler import sample

__all__ = ["decode_frames", "sample_latents"]

Floats = NDArray[np.float32]


def sample_latents(
    request: Request, manifest: Manifest, unet: Network, contexts: Mapping[str, Floats]
) -> Floats:
    """Return the denoised latents (1, C, T, h, w) of the last step.

    `contexts` (1, 77, D) are the encoded prompts by text, the empty prompt among them.
    """
    shape, width = request.latent_shape(manifest), manifest.model.guidance_width
    pair = [contexts[request.prompt], contexts[""]]
    denoiser = Denoiser(unet, pair, request.guidance, width, request.fps)

    def noise(index: int) -> Floats:
        return gaussian_noise(shape, request.seed, 1 + index)

    x_T = gaussian_noise(shape, request.seed, 0)
    *_, (_, x_0) = sample(denoiser, manifest.sampler, request.steps, x_T, noise)
    return x_0


def decode_frames(latents: Floats, manifest: Manifest, decoder: Network) -> Floats:
    """Return RGB (T, 3, H, W) in about [-1, 1], decoded one frame at a time."""
    return np.concatenate(list(decode(latents, manifest.model.scaling_factor, decoder)))
