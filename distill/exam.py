"""An exam of a world: captions never trained on, and a judge of the clips made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = ["FIRST_SEED", "Exam", "Scores", "examine", "examine_bundle"]

FIRST_SEED = 1_000_000
"""Of the scored videos; training uses no seeds so high."""

Asked = TypeVar("Asked")


@dataclass(frozen=True, slots=True)
class Scores:
    """How often videos show what their captions say, and how good they look."""

    captions: int
    accuracy: dict[str, float]
    """Attribute to the share of videos that have it right, in [0, 1]; `all` counts those that have
    all of them right (in the cartoons world noun, ground and path)."""
    quality: dict[str, float]
    """Mean of each quality score over that of rendered clips of the same scenes."""
    frechet: float | None = None
    """Fréchet distance to rendered clips on a judge's features, where the judge has some."""

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


class Exam(Protocol[Asked]):
    """What a world asks of a model, and how it marks the answers."""

    def ask(self, count: int, seed: int) -> list[tuple[Asked, str]]:
        """Draw `count` captions that were never trained on, each with what it asks for."""
        ...

    def score(self, clips: NDArray[np.uint8], asked: Sequence[Asked]) -> Scores:
        """Judge clips (B, T, H, W, 3) uint8 by what their captions asked for."""
        ...


def examine_bundle(
    path: Path,
    exam: Exam[Asked],
    captions: int = 400,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, count: None,
    frames: int | None = None,
) -> Scores:
    """Make a video of each of many captions never trained on, and judge their pixels.

    `seed` chooses the captions; `report` is called with how many videos are made, of how many.
    """
    pipeline = TextToVideo.from_bundle(path, device="cpu")
    return examine(pipeline, exam, captions, seed, report, frames)


def examine(
    pipeline: TextToVideo,
    exam: Exam[Asked],
    captions: int,
    seed: int,
    report: Callable[[int, int], None] = lambda done, count: None,
    frames: int | None = None,
) -> Scores:
    """Make one video a caption, with seeds no training used, and judge each."""
    asked, clips = exam.ask(captions, seed), []
    for index, (_, caption) in enumerate(asked):
        clips.append(pipeline(caption, seed=FIRST_SEED + index, frames=frames).frames)
        report(index + 1, captions)
    return exam.score(np.stack(clips), [what for what, _ in asked])
