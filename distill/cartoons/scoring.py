"""The exam of the cartoons world: held-out combinations, marked by its judge."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hummingbird_edge.distill.exam import Scores
from hummingbird_edge.distill.world.cartoons.judge import Judge, Verdict, frechet_distance
from hummingbird_edge.distill.world.cartoons.quality import assess
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import Shot, World, describe
from hummingbird_edge.distill.world.cartoons.sprites import Sprites

__all__ = ["CartoonsExam"]

BATCH = 16
"""Clips judged at once."""


@dataclass(frozen=True, slots=True)
class CartoonsExam:
    """Captions of combinations of noun, ground and path that are held out, and a judge."""

    judge: Judge
    world: World
    sprites: Sprites

    @classmethod
    def by(cls, judge: Judge, resolution: int) -> "CartoonsExam":
        """Return the exam of the world that `judge` knows, at `resolution` pixels of a side."""
        known = judge.config
        world = World(known.nouns, known.paths, known.sizes, known.grounds, resolution)
        return cls(judge, world, Sprites.read(known.nouns))

    def ask(self, count: int, seed: int) -> list[tuple[Shot, str]]:
        """Draw `count` captions, each with its shot."""
        rng = random.Random(seed)
        shots = [self.world.draw(rng, held_out=True) for _ in range(count)]
        return [(shot, describe(shot, rng)) for shot in shots]

    def look(self, clips: NDArray[np.uint8]) -> list[Verdict]:
        """Return what the judge sees in each of clips (B, T, H, W, 3) uint8."""
        verdicts = []
        for start in range(0, len(clips), BATCH):
            frames = self._frames(clips[start : start + BATCH])
            verdicts += self.judge.verdicts(self.judge.look(frames))
        return verdicts

    def score(self, clips: NDArray[np.uint8], asked: Sequence[Shot]) -> Scores:
        """Judge clips (B, T, H, W, 3) uint8 by the shots that their captions asked for.

        `action` is the share of clips in which the noun's own action is seen.
        """
        generator = torch.Generator().manual_seed(0)
        right: dict[str, int] = {}
        quality: dict[str, list[float]] = {}
        reachable: dict[str, list[float]] = {}
        features: list[Tensor] = []
        true_features: list[Tensor] = []
        for start in range(0, len(clips), BATCH):
            shots = asked[start : start + BATCH]
            frames = self._frames(clips[start : start + BATCH])
            true = render(shots, self.world, self.sprites, generator).frames
            looked = self.judge.look(frames)
            features.append(looked.features.cpu())
            true_features.append(self.judge.look(true).features.cpu())
            for found, made in ((quality, frames), (reachable, true)):
                for name, value in assess(self.judge, made).items():
                    found.setdefault(name, []).append(value * len(shots))
            for verdict, shot in zip(self.judge.verdicts(looked), shots, strict=True):
                for name, is_right in verdict.score(shot).items():
                    right[name] = right.get(name, 0) + is_right
        return Scores(
            captions=len(clips),
            accuracy={name: hits / len(clips) for name, hits in right.items()},
            quality={name: _ratio(sum(x), sum(reachable[name])) for name, x in quality.items()},
            frechet=frechet_distance(torch.cat(features), torch.cat(true_features)),
        )

    def _frames(self, clips: NDArray[np.uint8]) -> Tensor:
        """Return clips as the judge takes them, (B, T, 3, H, W) in [0, 1]."""
        frames = torch.from_numpy(clips).to(self.sprites.device)
        return frames.permute(0, 1, 4, 2, 3).float() / 255


def _ratio(found: float, reachable: float) -> float:
    """Return found / reachable; 0 where a judge that learned little finds nothing in rendered clips
    either."""
    return found / reachable if reachable else 0.0
