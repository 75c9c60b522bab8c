"""The worlds that models are trained and judged on, by their names."""

from pathlib import Path
from typing import Any

from hummingbird_edge.distill.evaluation import Evaluation
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["WORLDS", "evaluation_of", "require_world"]

WORLDS = ("shapes", "cartoons")


def require_world(world: str) -> None:
    """Raise RequestError for a world that there is not."""
    if world not in WORLDS:
        raise RequestError(f"there is no world {world!r}: choose {' or '.join(WORLDS)}")


def evaluation_of(world: str, judge: Path | None) -> Evaluation[Any]:
    """Return the evaluation on a world; that of the cartoons needs a folder with a trained judge.

    The folder is a run, or weights that one packed. Raises RequestError or CheckpointError.
    """
    require_world(world)
    if world == "shapes":
        from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
        from hummingbird_edge.distill.score import ShapesEvaluation

        if judge is not None:
            raise RequestError("--judge is for --world cartoons: leave it out")
        return ShapesEvaluation(BUILTIN_RECIPE.world)
    from hummingbird_edge.distill.cartoons.judging import read_judge
    from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation

    if judge is None:
        raise RequestError("--world cartoons needs --judge: a run that trained one, or its weights")
    return CartoonsEvaluation.by(read_judge(judge))
