"""A pool of the world's clips, encoded once for every later stage."""

import random
import time

import torch

from hummingbird_edge.distill.data.clips import Clips, encode
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import World, describe
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.export.models.vae import VAE

__all__ = ["draw_clips"]

WORDINGS = 4
"""Captions drawn for each clip."""
BATCH = {"cpu": 16, "cuda": 64}
"""Clips drawn at once, by kind of device."""


def draw_clips(
    vae: VAE,
    world: World,
    sprites: Sprites,
    count: int,
    budget_s: float,
    seed: int,
    scaling_factor: float | None = None,
) -> Clips:
    """Draw and encode up to `count` clips that are not held out, as many as the time allows.

    Without a factor, latents are scaled to unit variance.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    batch = BATCH[sprites.device.type]
    deadline = time.monotonic() + budget_s
    latents: list[torch.Tensor] = []
    captions: list[list[str]] = []
    while len(captions) < count and (not captions or time.monotonic() < deadline):
        shots = [world.draw(rng) for _ in range(min(batch, count - len(captions)))]
        captions += [[describe(shot, rng) for _ in range(WORDINGS)] for shot in shots]
        frames = render(shots, world, sprites, generator).frames
        latents.append(encode(vae, frames).bfloat16().cpu())
    drawn = torch.cat(latents)
    factor = scaling_factor or 1 / drawn.float().std().item()
    return Clips((drawn.float() * factor).bfloat16(), captions, factor)
