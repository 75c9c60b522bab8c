"""Make clips with the networks in PyTorch: teachers by guided DDIM, students in a few steps."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.train.diffusion import predict
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.runtime.media.temporal_noise import (
    measure_temporal_noise,
    remove_temporal_noise,
)
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.sampler import guidance_embedding, sample

__all__ = ["embed_guidance", "generate", "guide", "measure_noise", "sample_latents"]

Latents = NDArray[np.float32]


def embed_guidance(w: Sequence[float], width: int) -> torch.Tensor:
    """Embed guidance scales as (B, width) float32."""
    return torch.from_numpy(np.concatenate([guidance_embedding(x, width) for x in w]))


def guide(
    conditional: torch.Tensor, unconditional: torch.Tensor, w: torch.Tensor | float
) -> torch.Tensor:
    """Return unconditional + w (conditional - unconditional), w (B, 1, 1, 1, 1).

    Source: Ho & Salimans 2022 (arXiv:2207.12598), equation 6, in the convention of
    VideoCrafter2, where w = 1 is no guidance.
    """
    return unconditional + w * (conditional - unconditional)


@torch.no_grad()
def sample_latents(
    model: Model,
    ids: torch.Tensor,
    frames: int,
    side: tuple[int, int],
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Sample latents (B, 4, T, h, w) for captions `ids` (B, 77), `side` latent pixels (h, w).

    Clip i has the noise that `hb-run --seed SEED+i` has. Steps and guidance are the model's
    defaults where they are None. A model without a guidance embedding runs twice a step.
    """
    config, count, sampler = model.config, len(ids), model.config.sampler()
    device = next(model.unet.parameters()).device
    shape = (1, config.unet.latent_channels, frames, *side)
    steps = steps or config.defaults.steps

    def noise(index: int) -> Latents:
        if sampler.method == "ddim":  # it takes none
            return np.zeros((count, *shape[1:]), np.float32)
        return _noise(shape, seed, count, 1 + index)

    denoiser = _denoiser(model, ids.to(device), guidance)
    for _, _, denoised in sample(denoiser, sampler, steps, _noise(shape, seed, count, 0), noise):
        latents = denoised
    return torch.from_numpy(latents).to(device)


def _denoiser(
    model: Model, ids: torch.Tensor, guidance: float | None
) -> Callable[[Latents, int], Latents]:
    """Return the U-Net as the sampler calls it: its output for latents and a timestep, guided."""
    config, count, device = model.config, len(ids), ids.device
    w = config.defaults.guidance if guidance is None else guidance
    contexts = [model.text(ids)]
    cond = None
    if config.unet.guidance_width is not None:
        cond = embed_guidance([w] * count, config.unet.guidance_width).to(device)
    elif w != 1:
        contexts.append(model.text(model.ids([""]).to(device)).expand(count, -1, -1))
    fps = torch.full((count,), config.defaults.fps, device=device)

    def denoise(x_t: Latents, timestep: int) -> Latents:
        x = torch.from_numpy(x_t).to(device)
        t = torch.full((count,), timestep, device=device)
        outputs = [predict(model.unet, x, t, context, cond, fps) for context in contexts]
        output = outputs[0] if len(outputs) == 1 else guide(outputs[0], outputs[1], w)
        return output.cpu().numpy()

    return denoise


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[str],
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 50,
) -> NDArray[np.uint8]:
    """Make one clip a prompt, of the model's default size: (B, T, H, W, 3) uint8."""
    device, clips = next(model.vae.parameters()).device, []
    for start in range(0, len(prompts), batch):
        latents = _latents(model, prompts[start : start + batch], steps, guidance, seed + start)
        denoised = remove_temporal_noise(latents, model.config.temporal_noise)
        frames = model.decode(torch.from_numpy(denoised).to(device)).clamp(-1, 1)
        pixels = ((frames + 1) * 127.5).round().byte()
        clips.append(pixels.permute(0, 1, 3, 4, 2).cpu().numpy())
    return np.concatenate(clips)


@torch.no_grad()
def measure_noise(model: Model, prompts: Sequence[str], seed: int = 0) -> float:
    """Return the standard deviation of the noise between frames of a model's clips of `prompts`."""
    return measure_temporal_noise(_latents(model, prompts, None, None, seed))


def _latents(
    model: Model, prompts: Sequence[str], steps: int | None, guidance: float | None, seed: int
) -> Latents:
    """Sample latents (B, C, T, h, w) of the model's default size."""
    defaults, down = model.config.defaults, model.config.vae.downsampling
    side, ids = (defaults.height // down, defaults.width // down), model.ids(list(prompts))
    latents = sample_latents(model, ids, defaults.frames, side, steps, guidance, seed)
    return latents.cpu().numpy()


def _noise(shape: tuple[int, ...], seed: int, count: int, stream: int) -> Latents:
    return np.concatenate([gaussian_noise(shape, seed + i, stream) for i in range(count)])
