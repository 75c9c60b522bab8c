"""Score a bundle: videos of captions it never saw, made by the runtime, judged from their pixels.

Renderer and judge are those of the shapes world.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.stages.watch import watched_captions
from hummingbird_edge.distill.world.shapes.captions import sample_held_out
from hummingbird_edge.distill.world.shapes.judge import judge, score
from hummingbird_edge.distill.world.shapes.quality import Quality, assess
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import Scene, World
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = [
    "Scores",
    "measure_judge",
    "score_bundle",
    "score_clips",
    "score_pipeline",
    "unseen_captions",
]

FIRST_SEED = 1_000_000
"""Of the scored videos; training uses no seeds so high."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How often videos show what their captions say, and how good they look."""

    captions: int
    accuracy: dict[str, float]
    """Attribute to the share of videos that have it right, in [0, 1]; `all` counts those with no
    attribute wrong."""
    quality: dict[str, float]
    """Mean of each quality score over that of rendered clips of the same scenes."""

    def table(self) -> str:
        """Return the scores as a Markdown table."""
        lines = [f"| attribute | right, of {self.captions} |", "|---|---|"]
        lines += [f"| {name} | {100 * share:.1f} % |" for name, share in self.accuracy.items()]
        lines += ["", "| quality | of rendered clips' |", "|---|---|"]
        lines += [
            f"| {name.replace('_', ' ')} | {100 * share:.1f} % |"
            for name, share in self.quality.items()
        ]
        return "\n".join(lines)


def unseen_captions(world: World, count: int, seed: int) -> list[tuple[Scene, str]]:
    """Draw captions that were neither trained on nor watched while training."""
    watched = frozenset(text for _, text in watched_captions(world))
    return sample_held_out(world, count, seed, exclude=watched)


def score_bundle(
    path: Path,
    world: World,
    captions: int = 400,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Scores:
    """Make a video of each of many captions never trained on, and judge their pixels.

    `seed` chooses the captions; `report` is called with how many videos are made, of how many.
    """
    pipeline = TextToVideo.from_bundle(path, device="cpu")
    return score_pipeline(pipeline, world, captions, seed, report)


def score_pipeline(
    pipeline: TextToVideo,
    world: World,
    captions: int,
    seed: int,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Scores:
    """Make one video a held-out caption with fresh seeds and judge each against its scene."""
    pairs, clips = unseen_captions(world, captions, seed), []
    for index, (_, caption) in enumerate(pairs):
        clips.append(pipeline(caption, seed=FIRST_SEED + index).frames)
        report(index + 1, captions)
    return score_clips(np.stack(clips), [scene for scene, _ in pairs], world)


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


def measure_judge(
    bundle: Bundle, world: World, count: int = 400, seed: int = 0
) -> dict[str, Scores]:
    """Score `count` rendered clips as drawn and after the bundle's VAE: the judge's own errors.

    Raises BundleError for a bundle without the VAE's encoder.
    """
    rng = random.Random(seed)
    scenes = [world.draw(rng) for _ in range(count)]
    clips = rendered(scenes, world)
    cpu = Backend.parse("cpu")
    encoder, decoder = (
        open_session(bundle.graph(stage), cpu) for stage in ("vae_encoder", "vae_decoder")
    )
    decoded = np.stack([through_vae(clip, encoder, decoder) for clip in clips])
    return {
        "rendered": score_clips(clips, scenes, world),
        "after the VAE": score_clips(decoded, scenes, world),
    }


def through_vae(clip: NDArray[np.uint8], encoder: Session, decoder: Session) -> NDArray[np.uint8]:
    """Encode and decode a clip (T, H, W, 3) uint8."""
    frames = clip.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    moments = encoder.run({"sample": np.ascontiguousarray(frames)})
    mean = np.ascontiguousarray(np.split(moments, 2, axis=1)[0])
    decoded = np.rint((decoder.run({"latent_sample": mean}) + 1) * 127.5)
    return np.clip(decoded, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
