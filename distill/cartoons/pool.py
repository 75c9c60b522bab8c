"""A pool of the world's clips, encoded once for every later stage."""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from hummingbird_edge.distill.data.clips import Clips, encode
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import Shot, World, describe
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.export.models.vae import VAE

__all__ = ["draw_clips", "read_shots", "write_shots"]

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
) -> tuple[Clips, list[Shot]]:
    """Draw and encode up to `count` clips that are not held out, as many as the time allows.

    Returns the clips and what each shows. Without a factor, latents are scaled to unit variance.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    batch = BATCH[sprites.device.type]
    deadline = time.monotonic() + budget_s
    latents: list[torch.Tensor] = []
    drawn: list[Shot] = []
    captions: list[list[str]] = []
    while len(captions) < count and (not captions or time.monotonic() < deadline):
        shots = [world.draw(rng) for _ in range(min(batch, count - len(captions)))]
        captions += [[describe(shot, rng) for _ in range(WORDINGS)] for shot in shots]
        drawn += shots
        frames = render(shots, world, sprites, generator).frames
        latents.append(encode(vae, frames).bfloat16().cpu())
    encoded = torch.cat(latents).float()
    factor = scaling_factor or 1 / encoded.std().item()
    return Clips((encoded * factor).bfloat16(), captions, factor), drawn


def write_shots(shots: Sequence[Shot], path: Path) -> None:
    """Write what each clip of a pool shows, as JSON."""
    text = json.dumps([asdict(shot) for shot in shots])
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def read_shots(clips: Clips, path: Path) -> dict[str, Shot]:
    """Read what `write_shots` wrote: the shot of each caption of `clips`."""
    shots = [Shot(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    return {
        caption: shot
        for shot, captions in zip(shots, clips.captions, strict=True)
        for caption in captions
    }
