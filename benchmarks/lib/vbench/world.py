"""The judge of moving shapes as a table of VBench's dimensions, for every backend.

The judge reads pixels alone and knows the world, so its scores are no VBench scores: they tell
whether a precision, a device or fewer steps cost what VBench looks at. Rendered clips of the same
scenes show what the judge says of perfect ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.cases import VideoCase
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.table import markdown_table
from hummingbird_edge.benchmarks.lib.vbench.dimensions import DIMENSIONS
from hummingbird_edge.distill.evaluation import FIRST_SEED
from hummingbird_edge.distill.recipe import SHAPES_RECIPE
from hummingbird_edge.distill.score import rendered, unseen_captions
from hummingbird_edge.distill.world.shapes.judge import Seen, Verdict, judge, score
from hummingbird_edge.distill.world.shapes.quality import assess
from hummingbird_edge.distill.world.shapes.scene import Scene, World
from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = [
    "REASONS",
    "JudgedCase",
    "captions_of",
    "judge_case",
    "judge_rendered",
    "judged",
    "world_table",
]

REASONS: Mapping[str, str] = {
    "background_consistency": "the ground is one colour: flicker tells all of it",
    "aesthetic_quality": "plain shapes have none",
    "imaging_quality": "needs weights (MUSIQ)",
    "multiple_objects": "one object a clip in this world",
    "human_action": "no humans: the row motion tells what shapes do",
    "spatial_relationship": "one object a clip in this world",
    "appearance_style": "one style",
    "temporal_style": "no camera",
}
"""Why a dimension has no score, in a world of one object a clip."""
_MOTION = "motion"
"""The judge's own row: whether shapes move as their captions say."""


@dataclass(frozen=True, slots=True)
class JudgedCase:
    """One backend, and the captions whose videos are judged."""

    case: VideoCase
    captions: int
    seed: int
    """Chooses the captions."""


def captions_of(captions: int, seed: int) -> list[str]:
    """Return the captions whose videos are judged."""
    return [caption for _, caption in unseen_captions(SHAPES_RECIPE.world, captions, seed)]


def judge_case(judged_case: JudgedCase) -> Row:
    """Make and judge the videos of a case, in a process that does nothing else."""
    case, world = judged_case.case, SHAPES_RECIPE.world
    pairs = unseen_captions(world, judged_case.captions, judged_case.seed)
    pipeline = TextToVideo.from_bundle(case.bundle, device=case.device, precision=case.precision)
    clips = []
    for index, (_, caption) in enumerate(pairs):
        request = case.request
        clips.append(
            pipeline(
                caption,
                seed=FIRST_SEED + index,
                frames=request.frames,
                width=request.width,
                height=request.height,
                steps=request.steps,
                decoder=request.decoder,
            ).frames
        )
    measures = judged(np.stack(clips), [scene for scene, _ in pairs])
    return Row(case.name, measures, {"captions": len(pairs)})


def judge_rendered(captions: int, seed: int, world: World = SHAPES_RECIPE.world) -> Row:
    """Judge rendered clips of the same scenes: the judge's own errors."""
    scenes = [scene for scene, _ in unseen_captions(world, captions, seed)]
    return Row("rendered", judged(rendered(scenes, world), scenes), {"captions": captions})


def judged(clips: NDArray[np.uint8], scenes: Sequence[Scene]) -> dict[str, tuple[float, ...]]:
    """Return the scores of clips (B, T, H, W, 3) by dimension, each in [0, 1], one value a clip."""
    rows = [_judge_clip(clip, scene) for clip, scene in zip(clips, scenes, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: tuple(row[name] for row in rows if name in row) for name in names}


def _judge_clip(clip: NDArray[np.uint8], scene: Scene) -> dict[str, float]:
    verdict, quality = judge(clip), assess(clip)
    right = score(verdict, scene.background, [asdict(actor) for actor in scene.actors])
    found = {
        "subject_consistency": quality.subject_consistency,
        "temporal_flickering": quality.flicker,
        "motion_smoothness": quality.motion_smoothness,
        "dynamic_degree": any(seen.motion is not None for seen in verdict.actors),
        "object_class": right["shape"],
        "color": right["colour"],
        "scene": right["background"],
        "overall_consistency": right["all"],
        _MOTION: right["motion"],
    }
    if scene.relation is not None:
        found["multiple_objects"] = right["count"] and right["shape"]
        found["spatial_relationship"] = right["colour"] and _relation(verdict) == scene.relation
    return {name: float(value) for name, value in found.items()}


def _relation(verdict: Verdict) -> str | None:
    """Return how the first of two objects lies to the second, as scenes name it."""
    if len(verdict.actors) != 2:
        return None
    first, second = (_middle(seen) for seen in verdict.actors)
    across, down = second - first
    return "above" if abs(down) > abs(across) else "left"


def _middle(seen: Seen) -> NDArray[np.float64]:
    """Return the mean of an object's centres (x, y), in frame sides."""
    middle: NDArray[np.float64] = np.mean(np.array(seen.path), axis=0)
    return middle


def world_table(rows: Sequence[Row]) -> str:
    """Return a line a dimension and a column a row, means in percent; or why there is none."""
    lines = []
    for name in (*(each.name for each in DIMENSIONS), _MOTION):
        cells = [_percent(row, name) for row in rows]
        note = "" if any(cells) else REASONS.get(name, "")
        lines.append([name.replace("_", " "), *cells, note])
    failures = [f"{row.name} failed: {row.failure}" for row in rows if row.failure]
    return "\n\n".join(
        [markdown_table(["", *(row.name for row in rows), "note"], lines), *failures]
    )


def _percent(row: Row, name: str) -> str:
    values = row.measures.get(name)
    return f"{100 * float(np.mean(values)):.1f}" if values else ""
