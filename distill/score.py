"""Evaluate on the shapes world: captions never trained on, judged from pixels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.evaluation import Scores
from hummingbird_edge.distill.stages.watch import watched_captions
from hummingbird_edge.distill.world.shapes.captions import sample_held_out
from hummingbird_edge.distill.world.shapes.judge import judge, score
from hummingbird_edge.distill.world.shapes.quality import Quality, assess
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import Scene, World

__all__ = ["ShapesEvaluation", "rendered", "score_clips", "unseen_captions"]


@dataclass(frozen=True, slots=True)
class ShapesEvaluation:
    """Captions of the shapes world that were neither trained on nor watched, and its judge."""

    world: World

    def sample(self, count: int, seed: int) -> list[tuple[Scene, str]]:
        """Draw `count` captions, each with its scene."""
        return unseen_captions(self.world, count, seed)

    def score(self, clips: NDArray[np.uint8], targets: Sequence[Scene]) -> Scores:
        """Judge clips (B, T, H, W, 3) uint8 against the scenes of their captions."""
        return score_clips(clips, list(targets), self.world)

    def render(self, targets: Sequence[Scene], frames: int, side: int) -> NDArray[np.uint8]:
        """Draw clips (B, `frames`, `side`, `side`, 3) uint8 of scenes."""
        return rendered(list(targets), replace(self.world, frames=frames, resolution=side))


def unseen_captions(world: World, count: int, seed: int) -> list[tuple[Scene, str]]:
    """Draw captions that were neither trained on nor watched while training."""
    watched = frozenset(text for _, text in watched_captions(world))
    return sample_held_out(world, count, seed, exclude=watched)


def score_clips(clips: NDArray[np.uint8], scenes: list[Scene], world: World) -> Scores:
    """Judge clips (B, T, H, W, 3) uint8 against the scenes of their captions."""
    rows = [
        score(judge(clip), scene.background, [asdict(actor) for actor in scene.actors])
        for clip, scene in zip(clips, scenes, strict=True)
    ]
    drawn = rendered(scenes, replace(world, frames=clips.shape[1]))
    found, best = mean_quality(clips), mean_quality(drawn)
    return Scores(
        captions=len(scenes),
        accuracy={name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
        quality={name: found[name] / best[name] for name in found},
    )


def rendered(scenes: list[Scene], world: World) -> NDArray[np.uint8]:
    """Draw the scenes as the training data has them."""
    clips = render(scenes, world, torch.Generator().manual_seed(0))
    pixels: NDArray[np.uint8] = (clips * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    return pixels


def mean_quality(clips: NDArray[np.uint8]) -> dict[str, float]:
    """Return the mean of each quality score."""
    rows = [asdict(assess(clip)) for clip in clips]
    return {name: float(np.mean([row[name] for row in rows])) for name in asdict(Quality())}
