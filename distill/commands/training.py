"""Commands that train a run, stage by stage."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hummingbird_edge.distill.commands.options import (
    Batch,
    ClipsFile,
    RunFolder,
    Seed,
    Steps,
    Student,
    Teacher,
    WorldOption,
    given_for_cartoons,
)
from hummingbird_edge.distill.worlds import BUILTIN_WORLD
from hummingbird_edge.runtime.errors import RequestError

__all__ = [
    "autoencoder",
    "consistency",
    "decoder",
    "everything",
    "matching",
    "prune",
    "scorer",
    "teacher",
]


def everything(
    run: RunFolder,
    seed: Seed = 0,
    world: WorldOption = BUILTIN_WORLD,
    budget: Annotated[
        str | None, typer.Option(help="Cartoons: time in all, as in 90s; else 9m, on a CPU 6h.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Cartoons: cpu or cuda, else what there is.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Cartoons: full, small or tiny; else full, on a CPU small.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Cartoons: some stages alone, with commas.")
    ] = None,
    unpack: Annotated[
        Path | None, typer.Option(help="Cartoons: begin from what --pack wrote.")
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(help="Cartoons: write all weights to this folder, in halves.")
    ] = None,
    scored: Annotated[
        int | None, typer.Option(min=4, help="Cartoons: held-out captions to judge.")
    ] = None,
) -> None:
    """Run every stage that is not finished, from nothing to the 4-step student."""
    given = given_for_cartoons(
        world,
        budget=budget,
        device=device,
        recipe=recipe,
        stages=stages,
        unpack=unpack,
        pack=pack,
        scored=scored,
    )
    if world == "cartoons":
        from hummingbird_edge.distill.cartoons.train import Order, train

        train(replace(Order(run, seed=seed), **given))
        return
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.order import train_all
    from hummingbird_edge.distill.stages.sources import Sources

    train_all(Sources(run), SHAPES_RECIPE, seed)


def autoencoder(run: RunFolder, steps: Steps = None, seed: Seed = 0) -> None:
    """Train the VAE of moving shapes."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.sources import Sources
    from hummingbird_edge.distill.stages.vae import train_autoencoder

    train_autoencoder(Sources(run), SHAPES_RECIPE.with_plan("autoencoder", steps), seed)


def teacher(run: RunFolder, steps: Steps = None, clips: ClipsFile = None, seed: Seed = 0) -> None:
    """Train text encoder and U-Net of moving shapes with caption dropout."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.sources import Sources
    from hummingbird_edge.distill.stages.teacher import train_teacher

    train_teacher(Sources(run, clips=clips), SHAPES_RECIPE.with_plan("teacher", steps), seed)


def prune(
    run: RunFolder,
    teacher: Teacher = None,
    preset: Annotated[
        str | None, typer.Option(help="Prune to hummingbird-0.7b or -0.9b, not the recipe's.")
    ] = None,
    clips: ClipsFile = None,
) -> None:
    """Keep the teacher's most important blocks: writes RUN/pruned and RUN/prune.json."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.pruning import prune_teacher
    from hummingbird_edge.distill.stages.sources import Sources

    pruning = prune_teacher(Sources(run, teacher, clips=clips), SHAPES_RECIPE, preset)
    typer.echo(pruning.table())


def matching(
    run: RunFolder,
    steps: Steps = None,
    teacher: Teacher = None,
    student: Student = None,
    clips: ClipsFile = None,
    batch: Batch = None,
    guidance: Annotated[float | None, typer.Option(help="The teacher's w.")] = None,
    seed: Seed = 0,
) -> None:
    """Stage 1: the pruned student learns what its guided teacher predicts."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.sources import Sources
    from hummingbird_edge.distill.stages.students import train_matching

    recipe = SHAPES_RECIPE.with_plan("matching", steps, batch)
    if guidance is not None:
        recipe = replace(recipe, matching=replace(recipe.matching, guidance=guidance))
    train_matching(Sources(run, teacher, student, clips), recipe, seed)


def scorer(run: RunFolder, steps: Steps = None, seed: Seed = 0) -> None:
    """Train the contrastive text-video scorer, one of the rewards of stage 2."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.rewards import train_scorer
    from hummingbird_edge.distill.stages.sources import Sources

    train_scorer(Sources(run), SHAPES_RECIPE.with_plan("scorer", steps), seed)


def consistency(
    run: RunFolder,
    steps: Steps = None,
    teacher: Teacher = None,
    student: Student = None,
    clips: ClipsFile = None,
    batch: Batch = None,
    guidance: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest w, such as 5 15.")
    ] = None,
    rewards: Annotated[
        str | None, typer.Option(help="NAME=WEIGHT,...: shapes, scorer, MODULE:FUNCTION; or none.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Stage 2: latent consistency to 4 steps, with visual feedback; writes RUN/distilled."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.sources import Sources
    from hummingbird_edge.distill.stages.students import train_consistency

    recipe = SHAPES_RECIPE.with_plan("consistency", steps, batch)
    if guidance is not None:
        recipe = replace(recipe, consistency=replace(recipe.consistency, guidance=guidance))
    if rewards is not None:
        recipe = replace(recipe, rewards=_parse_rewards(rewards))
    train_consistency(Sources(run, teacher, student, clips), recipe, seed)


def decoder(run: RunFolder, steps: Steps = None, student: Student = None, seed: Seed = 0) -> None:
    """Finetune the VAE's decoder on latents with errors; writes RUN/student."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.sources import Sources
    from hummingbird_edge.distill.stages.vae import train_decoder

    recipe = SHAPES_RECIPE.with_plan("decoder", steps)
    train_decoder(Sources(run, student=student), recipe, seed)


def _parse_rewards(text: str) -> dict[str, float]:
    if text == "none":
        return {}
    try:
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError as error:
        raise RequestError(
            f"--rewards is {text!r}: write NAME=WEIGHT,NAME=WEIGHT or none"
        ) from error
