"""Trajectories of the few-step sampler: the inputs that the networks see in use.

Prompts go through the text encoder, latents through all steps from pure noise; guidance scale and
seed differ from one trajectory to the next. The decoder's inputs are the final latents.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import Manifest
from hummingbird_edge.runtime.decoder import decode, decoder_input
from hummingbird_edge.runtime.denoiser import Denoiser
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.noise import Noise
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.sampler import sample

__all__ = ["Run", "decode_frames", "encode", "note_unknown", "sample_latents", "trajectories"]

Latents = NDArray[np.float32]
Run = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""A network: inputs by name in, the first output out."""
_ALL = slice(None)
_GUIDANCE = (1.0, 2 / 3, 4 / 3)
"""Of the bundle's default, in turn."""


def trajectories(
    bundle: Bundle, prompts: Sequence[str], seed: int, size: Mapping[str, int | None]
) -> list[Request]:
    """Return a request for each prompt, with seeds from `seed` on and guidance over its range.

    `size` may give `frames`, `width` and `height`; the bundle's defaults otherwise. Raises
    RequestError for sizes that the model does not take.
    """
    default = bundle.manifest.defaults.guidance
    return [
        Request.for_model(
            bundle.manifest,
            prompt,
            seed + index,
            "full",
            guidance=default * _GUIDANCE[index % len(_GUIDANCE)],
            **size,
        )
        for index, prompt in enumerate(prompts)
    ]


def encode(bundle: Bundle, prompts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return the encoded prompts (1, 77, D) by their texts, the empty prompt included."""
    session = open_session(bundle.graph("text_encoder"), Backend.parse("cpu"))
    tokenizer = bundle.tokenizer()
    return {
        prompt: session.run({"input_ids": tokenizer(prompt).ids[None, :]})
        for prompt in dict.fromkeys(["", *prompts])
    }


def note_unknown(bundle: Bundle, prompts: Iterable[str], notify: Callable[[str], None]) -> None:
    """Tell `notify` of words that a small model was not trained on: its videos have other ranges
    than those of such prompts."""
    tokenizer = bundle.tokenizer()
    if any(tokenizer(prompt).unknown for prompt in prompts):
        notify(
            "this model was not trained on all words of these prompts, which makes int8 worse: "
            "give --prompts a file of captions as it was trained on"
        )


def sample_latents(
    request: Request, manifest: Manifest, unet: Run, contexts: Mapping[str, NDArray[np.float32]]
) -> Latents:
    """Return the denoised latents (1, C, T, h, w) after all steps of one video.

    `contexts` (1, 77, D) are the encoded prompts by their texts, the empty prompt included.
    """
    pair, width = [contexts[request.prompt], contexts[""]], manifest.model.guidance_width
    denoiser = Denoiser(unet, pair, request.guidance, width, request.fps)
    noise = Noise(request.latent_shape(manifest), request.steps, request.seed)
    x_T, sampler = noise.x_T(), manifest.sampler
    *_, (_, _, x_0) = sample(denoiser, sampler, request.steps, x_T, noise.of_step)
    return x_0


def decode_frames(
    latents: Latents, manifest: Manifest, decoder: Run, frames: slice | list[int] = _ALL
) -> NDArray[np.float32]:
    """Decode latents (1, C, T, h, w) frame by frame to RGB (n, 3, H, W) in about [-1, 1].

    `frames` says which of them, all if it is left out.
    """
    return np.concatenate(list(decode(decoder_input(latents, manifest.model)[frames], decoder)))
