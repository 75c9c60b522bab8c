"""Train the cartoons' model, or some of its stages, within one budget of time.

    hb-distill all RUN --world cartoons --budget 9m --device auto
    torchrun --nproc-per-node 2 -m hummingbird_edge.distill all RUN --world cartoons --budget 6h

Every stage (`stages`) gets its share of the time. Run again, it goes on from the last checkpoint,
which is a minute old at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hummingbird_edge.distill.cartoons.budget import choose_device, is_first, parse_budget, wait
from hummingbird_edge.distill.cartoons.delivery import pack, unpack
from hummingbird_edge.distill.cartoons.recipe import RECIPES, Recipe
from hummingbird_edge.distill.cartoons.session import Session
from hummingbird_edge.distill.cartoons.stages import STAGES
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Order", "share_out", "train"]

USUAL = {"cuda": ("full", "9m"), "cpu": ("small", "6h")}
"""By the kind of device, accelerators as CUDA: recipe and budget of an order without them."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to train, for how long and on what."""

    run: Path
    """Folder of logs, checkpoints and models."""
    budget: str | None = None
    """Time in all, as in 90s, 9m or 10h; `USUAL` where it is None."""
    device: str = "auto"
    """auto, cpu or cuda."""
    recipe: str | None = None
    """Of `RECIPES`; `USUAL` where it is None."""
    stages: str | None = None
    """With commas; None for all of them."""
    unpack: Path | None = None
    """Weights that another run packed, to begin from."""
    pack: Path | None = None
    """Where halves of all weights go after each stage."""
    scored: int = 100
    """Held-out shots to score."""
    seed: int = 0

    @property
    def stage_names(self) -> list[str]:
        """The stages to run, in order; raises RequestError for an unknown one."""
        names = self.stages.split(",") if self.stages else list(STAGES)
        if unknown := set(names) - set(STAGES):
            known = ", ".join(STAGES)
            raise RequestError(f"--stages names {', '.join(sorted(unknown))}: known are {known}")
        return names


def share_out(recipe: Recipe, stages: Sequence[str], budget_s: float) -> dict[str, float]:
    """Return the seconds of each stage, by its share among those that are run."""
    timed = [stage for stage in stages if stage in recipe.plans]
    total = sum(recipe.plans[stage].share for stage in timed)
    return {stage: budget_s * recipe.plans[stage].share / total for stage in timed}


def train(order: Order) -> None:
    """Run the stages that were ordered; raises HummingbirdError."""
    if order.recipe not in (None, *RECIPES):
        raise RequestError(f"there is no recipe {order.recipe!r}: choose from {', '.join(RECIPES)}")
    stages = order.stage_names
    budget_s = None if order.budget is None else parse_budget(order.budget)
    device = choose_device(order.device)
    usual_recipe, usual_budget = USUAL.get(device.type, USUAL["cuda"])
    recipe = RECIPES[order.recipe or usual_recipe]
    budgets = share_out(recipe, stages, budget_s or parse_budget(usual_budget))
    if (order.run / "autoencoder.pt").exists():
        raise RequestError(
            f"{order.run} is a run of moving shapes: give --world shapes, or another folder"
        )
    if is_first():
        if order.unpack is not None:
            unpack(order.unpack, order.run)
        recipe.tokenizer(order.run)
    wait()
    sprites = Sprites.read((*recipe.world.nouns, *recipe.unseen), device)
    session = Session(order.run, recipe, sprites, device, order.seed, budgets, order.scored)
    torch.manual_seed(order.seed)
    for stage in stages:
        STAGES[stage](session)
        if order.pack is not None and is_first():
            pack(order.run, order.pack)
