"""`hb-distill` with a recipe of seconds; run by `torchrun` in test_two_nodes.py.

Each process writes how many there are and the digest of its weights into RUN/process-RANK.
"""

import hashlib
import os
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from hummingbird_edge.distill import cli, recipe
from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages import vae
from hummingbird_edge.distill.train.consistency import ConsistencyRecipe
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.training import Plan, Stage, fit
from hummingbird_edge.distill.world.shapes.scene import World
from hummingbird_edge.export.models.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from hummingbird_edge.runtime.bundle.manifest import Defaults

WORLD = World(
    colours=("red", "blue"),
    shapes=("circle", "square"),
    sizes=("large",),
    motions=("right", "left"),
    backgrounds=("black", "white"),
    resolution=16,
    frames=4,
)
TINY = Plan(2, 4, 1e-3, log_every=1, save_every=2)
RECIPE = Recipe(
    world=WORLD,
    teacher=ModelConfig(
        text=TextConfig(width=16, layers=2, heads=2),
        unet=UNetConfig(
            width=16,
            multipliers=(1, 2),
            res_blocks=2,
            attention_levels=(0,),
            head_width=8,
            initial_heads=2,
            context_width=16,
            middle_block=True,
            guidance_width=None,
            groups=2,
        ),
        vae=VAEConfig(width=8, multipliers=(1, 1), res_blocks=1, groups=2),
        prediction_type="v_prediction",
        method="ddim",
        defaults=Defaults(frames=4, width=16, height=16, steps=10, guidance=3.0, fps=4),
    ),
    clips=16,
    consistency=ConsistencyRecipe(guidance=(1.0, 2.0), task_weight=1.0, simulated_share=1.0),
    plans=dict.fromkeys(
        ("autoencoder", "teacher", "matching", "consistency", "scorer", "decoder"), TINY
    ),
)
SAVE_EVERY = 10
"""Steps between the autoencoder's checkpoints."""


def main() -> None:
    """Be `hb-distill`."""
    plan = replace(TINY, save_every=SAVE_EVERY)
    tiny = replace(RECIPE, plans={**RECIPE.plans, "autoencoder": plan})
    with patch.object(recipe, "SHAPES_RECIPE", tiny), patch.object(vae, "fit", fit_and_tell):
        cli.main()


def fit_and_tell(run: Run, stage: Stage[Any], *args: Any) -> dict[str, torch.Tensor]:
    """Train as ever, and write what this process has at the end."""
    average = fit(run, stage, *args)
    weights = b"".join(p.detach().numpy().tobytes() for p in stage.trained.parameters())
    text = f"{dist.get_world_size()} {hashlib.sha256(weights).hexdigest()}"
    (run.folder / f"process-{os.environ['RANK']}").write_text(text, encoding="utf-8")
    return average


if __name__ == "__main__":
    main()
