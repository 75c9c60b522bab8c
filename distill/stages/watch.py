"""Watch a training run: a few held-out captions of the shapes world, judged at each checkpoint."""

from dataclasses import asdict

import numpy as np

from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import device
from hummingbird_edge.distill.train.sampling import generate
from hummingbird_edge.distill.world.shapes.captions import sample_held_out
from hummingbird_edge.distill.world.shapes.judge import judge, score
from hummingbird_edge.distill.world.shapes.scene import Scene, World

__all__ = ["watch", "watched_captions"]

CAPTIONS = 48
SEED = 1


def watched_captions(world: World) -> list[tuple[Scene, str]]:
    """Return the captions on which runs are watched; published scores leave them out."""
    return sample_held_out(world, CAPTIONS, SEED)


def watch(model: Model, world: World, steps: int, guidance: float | None) -> dict[str, float]:
    """Judge one clip of each watched caption: the share right in [0, 1], by attribute."""
    pairs = watched_captions(world)
    clips = generate(model.frozen(device()), [caption for _, caption in pairs], steps, guidance)
    rows = [
        score(judge(clip), scene.background, [asdict(actor) for actor in scene.actors])
        for clip, (scene, _) in zip(clips, pairs, strict=True)
    ]
    return {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
