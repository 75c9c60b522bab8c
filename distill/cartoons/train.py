"""Train the cartoons' model, or some of its stages, within one budget of time.

    python -m hummingbird_edge.distill.cartoons.train RUN --budget 9m --device auto
    torchrun --nproc-per-node 2 -m hummingbird_edge.distill.cartoons.train RUN --budget 10h

Every stage (`stages`) gets its share of the time. Run again, it goes on from the last checkpoint,
which is a minute old at most. `--start FOLDER` begins from weights that another run packed, `--pack
FOLDER` packs them.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hummingbird_edge.distill.cartoons.budget import (
    choose_device,
    is_first,
    parse_budget,
    wait,
)
from hummingbird_edge.distill.cartoons.delivery import pack, unpack
from hummingbird_edge.distill.cartoons.recipe import RECIPES, Recipe
from hummingbird_edge.distill.cartoons.session import Session
from hummingbird_edge.distill.cartoons.stages import STAGES
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError

__all__ = ["main", "share_out"]


def share_out(recipe: Recipe, stages: Sequence[str], budget_s: float) -> dict[str, float]:
    """Return the seconds of each stage, by its share among those that are run."""
    timed = [stage for stage in stages if stage in recipe.plans]
    total = sum(recipe.plans[stage].share for stage in timed)
    return {stage: budget_s * recipe.plans[stage].share / total for stage in timed}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of logs, checkpoints and models")
    parser.add_argument("--budget", default="9m", help="time in all, as in 90s, 9m or 10h")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--recipe", choices=list(RECIPES), default="full", help="what is trained")
    parser.add_argument("--stages", help="stages to run, with commas; all of them by default")
    parser.add_argument("--start", type=Path, help="begin from weights that --pack wrote")
    parser.add_argument("--pack", type=Path, help="write halves of all weights to this folder")
    parser.add_argument("--latent-channels", type=int, help="channels of the VAE's latents")
    parser.add_argument("--scored", type=int, default=100, help="held-out shots to score")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except HummingbirdError as error:
        sys.exit(f"error: {error}")


def _recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe with another VAE where the options ask for one."""
    recipe = RECIPES[options.recipe]
    if options.latent_channels is None:
        return recipe
    channels, teacher = options.latent_channels, recipe.teacher
    vae = replace(teacher.vae, latent_channels=channels)
    unet = replace(teacher.unet, latent_channels=channels)
    return replace(recipe, teacher=replace(teacher, vae=vae, unet=unet))


def _run(options: argparse.Namespace) -> None:
    stages = options.stages.split(",") if options.stages else list(STAGES)
    if unknown := set(stages) - set(STAGES):
        known = ", ".join(STAGES)
        raise RequestError(f"--stages names {', '.join(sorted(unknown))}: known are {known}")
    recipe, device = _recipe(options), choose_device(options.device)
    budgets = share_out(recipe, stages, parse_budget(options.budget))
    if options.start is not None and is_first() and not list(options.run.glob("*.pt")):
        unpack(options.start, options.run)
    wait()
    sprites = Sprites.read(recipe.world.nouns, device)
    session = Session(options.run, recipe, sprites, device, options.seed, budgets, options.scored)
    torch.manual_seed(options.seed)
    for stage in stages:
        STAGES[stage](session)
        if options.pack is not None and is_first():
            pack(options.run, options.pack)


if __name__ == "__main__":
    main()
