"""Score a bundle: captions it never saw, through the runtime, judged from the decoded pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hummingbird_edge.distill.judge import judge, score
from hummingbird_edge.distill.world import Scene, World, sample_held_out
from hummingbird_edge.runtime.text_to_video import TextToVideo

__all__ = ["Scores", "score_pipeline"]


@dataclass(frozen=True, slots=True)
class Scores:
    """How often the video shows what the caption asked for."""

    captions: int
    accuracy: dict[str, float]
    """Attribute to its share right, in [0, 1]; `all` asks for every attribute at once."""

    def table(self) -> str:
        """Return the scores as a Markdown table."""
        lines = [f"| attribute | right, of {self.captions} |", "|---|---|"]
        lines += [f"| {name} | {100 * share:.1f} % |" for name, share in self.accuracy.items()]
        return "\n".join(lines)


def score_pipeline(
    pipeline: TextToVideo,
    world: World,
    captions: int,
    seed: int,
    report: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Make one video a held-out caption with fresh seeds and judge each against its scene."""
    rows = []
    for index, (scene, caption) in enumerate(sample_held_out(world, captions, seed)):
        video = pipeline(caption, seed=1_000_000 + index)
        asked = {name: getattr(scene, name) for name in Scene.__slots__}
        row = score(judge(video.frames), asked)
        rows.append({**row, "all": all(row.values())})
        report(index + 1)
    return Scores(captions, {name: float(np.mean([row[name] for row in rows])) for name in rows[0]})
