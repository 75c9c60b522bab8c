"""A bundle in smaller numbers, judged by what its videos show of captions of the world."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.score import FIRST_SEED, score_clips, unseen_captions
from hummingbird_edge.distill.world.shapes import World
from hummingbird_edge.quantize.bundle import Judge
from hummingbird_edge.runtime.bundle.manifest import Manifest
from hummingbird_edge.runtime.request import Request

__all__ = ["judged_captions"]


def judged_captions(
    manifest: Manifest, world: World, captions: int, others: int, seed: int
) -> tuple[list[str], Judge]:
    """Return as many `others` to calibrate on, and who judges a model by `captions`, all unseen."""
    pairs = unseen_captions(world, others + captions, seed)
    judged = pairs[others:]
    requests = [
        Request.for_model(manifest, caption, FIRST_SEED + index)
        for index, (_, caption) in enumerate(judged)
    ]

    def accuracy(videos: Sequence[NDArray[np.uint8]]) -> float:
        return score_clips(np.stack(videos), [scene for scene, _ in judged], world).accuracy["all"]

    return [caption for _, caption in pairs[:others]], Judge(requests, accuracy)
