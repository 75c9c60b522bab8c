"""Evaluate a model on a world: captions never trained on, and a judge of the clips made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = [
    "FIRST_SEED",
    "Evaluation",
    "Scores",
    "Target",
    "evaluate",
    "evaluate_bundle",
    "evaluate_judge",
    "make_clips",
]

FIRST_SEED = 1_000_000
"""Of the scored videos; training uses no seeds so high."""

Target = TypeVar("Target")
"""What a caption describes: a scene of the shapes world, a shot of the cartoons world."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How often videos show what their captions say, and how good they look."""

    captions: int
    accuracy: dict[str, float]
    """Attribute to the share of videos that have it right, in [0, 1]; `all` counts those that have
    all of them right (in the cartoons world noun, ground and path)."""
    quality: dict[str, float]
    """Mean of each quality score over that of rendered clips of the same targets."""
    frechet: float | None = None
    """Fréchet distance to rendered clips on a judge's features, where it has some and there are two
    clips or more."""

    def table(self) -> str:
        """Return the scores as a Markdown table."""
        lines = [f"| attribute | right, of {self.captions} |", "|---|---|"]
        lines += [f"| {name} | {100 * share:.1f} % |" for name, share in self.accuracy.items()]
        lines += ["", "| quality | of rendered clips' |", "|---|---|"]
        lines += [
            f"| {name.replace('_', ' ')} | {100 * share:.1f} % |"
            for name, share in self.quality.items()
        ]
        if self.frechet is not None:
            lines += ["", f"Fréchet distance to rendered clips: {self.frechet:.2f}."]
        return "\n".join(lines)


class Evaluation(Protocol[Target]):
    """A world's held-out captions and its judge."""

    def sample(self, count: int, seed: int) -> list[tuple[Target, str]]:
        """Draw `count` different targets that were never trained on, each with a caption.

        Raises RequestError where there are not so many.
        """
        ...

    def score(self, clips: NDArray[np.uint8], targets: Sequence[Target]) -> Scores:
        """Judge clips (B, T, H, W, 3) uint8 against the targets of their captions.

        Raises RequestError for clips that are too short to judge.
        """
        ...

    def render(self, targets: Sequence[Target], frames: int, side: int) -> NDArray[np.uint8]:
        """Draw clips (B, `frames`, `side`, `side`, 3) uint8 as the training data has them."""
        ...


def evaluate_bundle(
    path: Path,
    evaluation: Evaluation[Target],
    captions: int = 400,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, count: None,
    frames: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Scores:
    """Make a video of each of many captions never trained on, and judge their pixels.

    `seed` chooses the captions; `report` is called with how many videos are made, of how many;
    `frames` is the length of each, if not the bundle's own; `device` and `precision` are those of
    `TextToVideo.from_bundle`. Raises HummingbirdError.
    """
    pipeline = TextToVideo.from_bundle(path, device=device, precision=precision)
    return evaluate(pipeline, evaluation, captions, seed, report, frames)


def evaluate(
    pipeline: TextToVideo,
    evaluation: Evaluation[Target],
    captions: int,
    seed: int,
    report: Callable[[int, int], None] = lambda done, count: None,
    frames: int | None = None,
) -> Scores:
    """Make one video a caption, with seeds no training used, and judge each.

    Raises RequestError for a model of another world.
    """
    pairs = evaluation.sample(captions, seed)
    texts = [caption for _, caption in pairs]
    require_known_words(pipeline.bundle, texts)
    clips = make_clips(pipeline, texts, report, frames)
    return evaluation.score(clips, [target for target, _ in pairs])


def require_known_words(bundle: Bundle, captions: Sequence[str]) -> None:
    """Raise RequestError for a model that does not know a quarter of the captions' words."""
    tokenizer = bundle.tokenizer()
    unknown = sum(len(tokenizer(caption).unknown) for caption in captions)
    if 4 * unknown > sum(len(caption.split()) for caption in captions):
        raise RequestError(
            f"{bundle.manifest.name} does not know the words of this world's captions, as "
            f"{captions[0]!r}: name its own --world, or another bundle"
        )


def evaluate_judge(
    bundle: Bundle, evaluation: Evaluation[Target], count: int = 400, seed: int = 0
) -> dict[str, Scores]:
    """Score `count` rendered clips as drawn and after the bundle's VAE: the judge's own errors.

    Raises BundleError for a bundle without the VAE's encoder.
    """
    defaults, cpu = bundle.manifest.defaults, Backend.parse("cpu")
    targets = [target for target, _ in evaluation.sample(count, seed)]
    clips = evaluation.render(targets, defaults.frames, defaults.height)
    encoder, decoder = (
        open_session(bundle.graph(stage), cpu) for stage in ("vae_encoder", "vae_decoder")
    )
    decoded = np.stack([_through_vae(clip, encoder, decoder) for clip in clips])
    return {
        "rendered": evaluation.score(clips, targets),
        "after the VAE": evaluation.score(decoded, targets),
    }


def _through_vae(clip: NDArray[np.uint8], encoder: Session, decoder: Session) -> NDArray[np.uint8]:
    """Encode and decode a clip (T, H, W, 3) uint8."""
    frames = clip.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    moments = encoder.run({"sample": np.ascontiguousarray(frames)})
    mean = np.ascontiguousarray(np.split(moments, 2, axis=1)[0])
    decoded = np.rint((decoder.run({"latent_sample": mean}) + 1) * 127.5)
    return np.clip(decoded, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def make_clips(
    pipeline: TextToVideo,
    captions: Sequence[str],
    report: Callable[[int, int], None] = lambda done, count: None,
    frames: int | None = None,
) -> NDArray[np.uint8]:
    """Make one video a caption, (B, T, H, W, 3) uint8, with the seeds from FIRST_SEED on."""
    clips = []
    for index, caption in enumerate(captions):
        clips.append(pipeline(caption, seed=FIRST_SEED + index, frames=frames).frames)
        report(index + 1, len(captions))
    return np.stack(clips)
