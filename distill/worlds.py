"""The worlds that models are trained and judged on, by their names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from hummingbird_edge.distill.evaluation import Evaluation

__all__ = ["BUILTIN_WORLD", "WORLDS", "bundle_of", "evaluation_of", "require_world"]

WORLDS = ("cartoons", "shapes")
BUILTIN_WORLD = "cartoons"
"""That of the built-in model."""


def require_world(world: str) -> None:
    """Raise RequestError for a world that there is not."""
    if world not in WORLDS:
        raise RequestError(f"there is no world {world!r}: choose {' or '.join(WORLDS)}")


def bundle_of(world: str, bundle: Path | None) -> Path:
    """Return the bundle to judge: the built-in one where none is given and `world` is its own.

    Raises RequestError.
    """
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN

    require_world(world)
    if bundle is None and world != BUILTIN_WORLD:
        raise RequestError(
            f"the built-in model knows {BUILTIN_WORLD}, not {world}: name a bundle that does"
        )
    return bundle or BUILTIN


def evaluation_of(world: str, judge: Path | None = None) -> "Evaluation[Any]":
    """Return the evaluation on a world; that of the cartoons has a trained judge.

    Without a folder it is the one that judged the built-in model; a folder is a run, or weights
    that one packed. Raises RequestError or CheckpointError.
    """
    require_world(world)
    if world == "shapes":
        from hummingbird_edge.distill.recipe import SHAPES_RECIPE
        from hummingbird_edge.distill.score import ShapesEvaluation

        if judge is not None:
            raise RequestError("--judge is for --world cartoons: leave it out")
        return ShapesEvaluation(SHAPES_RECIPE.world)
    from hummingbird_edge.distill.cartoons.judging import BUILTIN_JUDGE, read_judge
    from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation

    return CartoonsEvaluation.by(read_judge(judge or BUILTIN_JUDGE))
