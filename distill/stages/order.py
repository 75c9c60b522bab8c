"""Every stage by its name, in the order in which they run."""

from collections.abc import Callable, Mapping

from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages.clips import draw_clips
from hummingbird_edge.distill.stages.pruning import prune_teacher
from hummingbird_edge.distill.stages.rewards import train_scorer
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.stages.students import train_consistency, train_matching
from hummingbird_edge.distill.stages.teacher import train_teacher
from hummingbird_edge.distill.stages.vae import train_autoencoder, train_decoder

__all__ = ["STAGES", "train_all"]

STAGES: Mapping[str, Callable[[Sources, Recipe, int], object]] = {
    "autoencoder": train_autoencoder,
    "clips": draw_clips,
    "teacher": train_teacher,
    "prune": lambda sources, recipe, seed: prune_teacher(sources, recipe),
    "matching": train_matching,
    "scorer": train_scorer,
    "consistency": train_consistency,
    "decoder": train_decoder,
}


def train_all(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Run every stage, from nothing to the few-step student in RUN/student.

    A stage whose checkpoint is complete trains no further, and one that was stopped goes on.
    """
    for run_stage in STAGES.values():
        run_stage(sources, recipe, seed)
