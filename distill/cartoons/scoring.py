"""Evaluate on the cartoons world: held-out combinations, judged by a trained network."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hummingbird_edge.distill.evaluation import Scores
from hummingbird_edge.distill.world.cartoons.judge import Judge, Verdict, frechet_distance
from hummingbird_edge.distill.world.cartoons.quality import assess
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import Shot, World, describe
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["CartoonsEvaluation"]

BATCH = 16
"""Clips judged at once."""
MIN_FRAMES = 3
"""Motion is smooth or not from here on."""
MAX_DRAWS = 50
"""Draws for each shot that is wanted: few combinations are held out of a small world."""


@dataclass(frozen=True, slots=True)
class CartoonsEvaluation:
    """Captions of combinations of noun, path and ground that are held out, and a judge."""

    judge: Judge
    world: World
    sprites: Sprites

    @classmethod
    def by(cls, judge: Judge) -> "CartoonsEvaluation":
        """Return the evaluation on the world that `judge` knows."""
        known = judge.config
        world = World(known.seen, known.paths, known.sizes, known.grounds)
        return cls(judge, world, Sprites.read(known.nouns))

    def sample(self, count: int, seed: int) -> list[tuple[Shot, str]]:
        """Draw `count` different held-out shots, each with a caption.

        Raises RequestError where there are not so many.
        """
        rng, shots = random.Random(seed), dict[Shot, None]()
        for _ in range(MAX_DRAWS * count):
            if len(shots) < count:
                shots[self.world.draw(rng, held_out=True)] = None
        if len(shots) < count:
            raise RequestError(
                f"{count} held-out captions were asked for and this world has about {len(shots)}: "
                f"ask for fewer"
            )
        return [(shot, describe(shot, rng)) for shot in shots]

    def score(self, clips: NDArray[np.uint8], targets: Sequence[Shot]) -> Scores:
        """Judge clips (B, T, H, W, 3) uint8 against the shots of their captions; as `examine`."""
        return self.examine(clips, targets)[0]

    def examine(
        self, clips: NDArray[np.uint8], targets: Sequence[Shot]
    ) -> tuple[Scores, list[Verdict]]:
        """Judge clips (B, T, H, W, 3) uint8; return the scores, and what was seen in each.

        `action` is the share of clips in which the noun's own action is seen. Quality is compared
        with rendered clips of the same shots, length and size. Raises RequestError for clips of
        fewer than 3 frames, or of frames that are not square.
        """
        count, length, height, width, _ = clips.shape
        if length < MIN_FRAMES or height != width:
            raise RequestError(
                f"clips of {length} frames of {width}x{height} cannot be judged: give {MIN_FRAMES} "
                f"frames or more, as wide as high"
            )
        world = replace(self.world, frames=length, resolution=height)
        generator = torch.Generator().manual_seed(0)
        right: dict[str, int] = {}
        quality: dict[str, list[float]] = {}
        reachable: dict[str, list[float]] = {}
        features: list[Tensor] = []
        true_features: list[Tensor] = []
        verdicts: list[Verdict] = []
        for start in range(0, count, BATCH):
            shots = targets[start : start + BATCH]
            frames = self._frames(clips[start : start + BATCH])
            true = render(shots, world, self.sprites, generator).frames
            seen = self.judge.look(frames)
            features.append(seen.features.cpu())
            true_features.append(self.judge.look(true).features.cpu())
            for found, made in ((quality, frames), (reachable, true)):
                for name, value in assess(self.judge, made).items():
                    found.setdefault(name, []).append(value * len(shots))
            verdicts += self.judge.verdicts(seen)
        for verdict, shot in zip(verdicts, targets, strict=True):
            for name, is_right in verdict.score(shot).items():
                right[name] = right.get(name, 0) + is_right
        distance = None
        if count > 1:
            distance = frechet_distance(torch.cat(features), torch.cat(true_features))
        scores = Scores(
            captions=count,
            accuracy={name: hits / count for name, hits in right.items()},
            quality={name: _ratio(sum(x), sum(reachable[name])) for name, x in quality.items()},
            frechet=distance,
        )
        return scores, verdicts

    def render(self, targets: Sequence[Shot], frames: int, side: int) -> NDArray[np.uint8]:
        """Draw clips (B, `frames`, `side`, `side`, 3) uint8 of shots."""
        world = replace(self.world, frames=frames, resolution=side)
        generator = torch.Generator().manual_seed(0)
        pixels = []
        for start in range(0, len(targets), BATCH):
            shots = targets[start : start + BATCH]
            drawn = render(shots, world, self.sprites, generator).frames
            pixels.append((drawn * 255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy())
        return np.concatenate(pixels)

    def _frames(self, clips: NDArray[np.uint8]) -> Tensor:
        """Return clips as the judge takes them, (B, T, 3, H, W) in [0, 1]."""
        frames = torch.from_numpy(clips).to(self.sprites.device)
        return frames.permute(0, 1, 4, 2, 3).float() / 255


def _ratio(found: float, reachable: float) -> float:
    """Return found / reachable; 0 where a judge that learned little finds nothing in rendered clips
    either."""
    return found / reachable if reachable else 0.0
