"""The rewards of stage 2, and the stage that trains one of them."""

from collections.abc import Callable, Mapping

import torch

from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.train.processes import device, in_turn
from hummingbird_edge.distill.train.reward import Reward, load_reward
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.scorer import ContrastiveReward, ScorerStage
from hummingbird_edge.distill.train.training import fit
from hummingbird_edge.distill.world.shapes.reward import ShapesReward
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["load_rewards", "train_scorer"]


def train_scorer(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Train the contrastive reward on clips of the world; writes RUN/scorer.pt."""
    with in_turn():
        plan, tokenizer = recipe.plans["scorer"], recipe.tokenizer(sources.run)
    torch.manual_seed(seed)
    stage = ScorerStage(recipe.world, tokenizer, plan.batch, device())
    fit(Run(sources.run, "scorer"), stage, plan, seed)


def load_rewards(
    sources: Sources, recipe: Recipe, tokenizer: Tokenizer
) -> dict[str, tuple[float, Reward]]:
    """Return weight and function of each of the recipe's rewards; raises RequestError."""

    def scorer() -> Reward:
        return ContrastiveReward.read(sources.scorer or sources.run, tokenizer, device())

    known: Mapping[str, Callable[[], Reward]] = {"shapes": ShapesReward, "scorer": scorer}
    return {
        name: (weight, known[name]() if name in known else load_reward(name))
        for name, weight in recipe.rewards.items()
        if weight
    }
