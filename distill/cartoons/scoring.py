"""Score a model of the cartoons world on held-out combinations, by its judge."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.sampling import generate
from hummingbird_edge.distill.world.cartoons.judge import Judge, frechet_distance
from hummingbird_edge.distill.world.cartoons.quality import assess
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import World, describe
from hummingbird_edge.distill.world.cartoons.sprites import Sprites

__all__ = ["Scores", "score_model"]

FIRST_SEED = 1_000_000
BATCH = 16


@dataclass(frozen=True, slots=True)
class Scores:
    """How often the clips show what the captions asked for."""

    clips: int
    accuracy: dict[str, float]
    """Attribute to its share right, in [0, 1]; `all` is noun, ground and path at once."""
    quality: dict[str, float]
    """Mean of each quality score over that of rendered clips of the same shots."""
    frechet: float
    """Distance to rendered clips of the same shots on the judge's features."""
    frames: NDArray[np.uint8]
    """The first clips, (N, T, H, W, 3)."""
    captions: tuple[str, ...]
    """What they were asked for."""


def score_model(
    model: Model,
    judge: Judge,
    world: World,
    sprites: Sprites,
    count: int,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 77,
    shown: int = 16,
) -> Scores:
    """Make one clip for each of `count` held-out shots and judge it."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    right: dict[str, int] = {}
    quality: dict[str, list[float]] = {}
    reachable: dict[str, list[float]] = {}
    made_features: list[Tensor] = []
    true_features: list[Tensor] = []
    kept, asked = [], []
    for start in range(0, count, BATCH):
        shots = [world.draw(rng, held_out=True) for _ in range(min(BATCH, count - start))]
        captions = [describe(shot, rng) for shot in shots]
        made = generate(model, captions, steps, guidance, FIRST_SEED + start)
        frames = torch.from_numpy(made).to(sprites.device).permute(0, 1, 4, 2, 3).float() / 255
        looked = judge.look(frames)
        made_features.append(looked.features.cpu())
        true = render(shots, world, sprites, generator).frames
        true_features.append(judge.look(true).features.cpu())
        for name, value in assess(judge, frames).items():
            quality.setdefault(name, []).append(value)
        for name, value in assess(judge, true).items():
            reachable.setdefault(name, []).append(value)
        for verdict, shot in zip(judge.verdicts(looked), shots, strict=True):
            for name, is_right in verdict.score(shot).items():
                right[name] = right.get(name, 0) + is_right
        if start < shown:
            kept.append(made)
            asked += captions
    distance = frechet_distance(torch.cat(made_features), torch.cat(true_features))
    accuracy = {name: round(hits / count, 4) for name, hits in right.items()}
    ratios = {name: round(sum(x) / sum(reachable[name]), 4) for name, x in quality.items()}
    return Scores(
        count, accuracy, ratios, distance, np.concatenate(kept)[:shown], tuple(asked[:shown])
    )
