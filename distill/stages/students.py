"""Distil the student: stage 1 matches its teacher, stage 2 needs few steps."""

from collections.abc import Mapping

import torch

from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages.rewards import load_rewards
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.stages.watch import watch
from hummingbird_edge.distill.train.consistency import ConsistencyStage
from hummingbird_edge.distill.train.matching import MatchingStage
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import device, is_first
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.training import fit

__all__ = ["train_consistency", "train_matching"]


def train_matching(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Stage 1: train the pruned student on its guided teacher; writes RUN/matched."""
    plan, teacher = recipe.plans["matching"], sources.read_teacher()
    student, clips = sources.read_student("matching"), sources.read_clips()
    clips.check_fits(teacher.config)
    stage = MatchingStage(teacher, student.unet, clips, recipe.matching, plan.batch, device())
    _fit("matching", "matched", sources, recipe, student, stage, seed)


def train_consistency(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Stage 2: latent consistency to few steps, with rewards; writes RUN/distilled."""
    plan, teacher = recipe.plans["consistency"], sources.read_teacher()
    student, clips = sources.read_student("consistency"), sources.read_clips()
    clips.check_fits(teacher.config)
    stage = ConsistencyStage(
        teacher,
        student.unet,
        clips,
        load_rewards(sources, recipe, teacher.tokenizer),
        recipe.consistency,
        plan.batch,
        device(),
    )
    _fit("consistency", "distilled", sources, recipe, student, stage, seed)


def _fit(
    name: str,
    folder: str,
    sources: Sources,
    recipe: Recipe,
    student: Model,
    stage: MatchingStage | ConsistencyStage,
    seed: int,
) -> None:
    """Train a student's U-Net and write the model into `folder` of the run."""

    def model(weights: Mapping[str, torch.Tensor]) -> Model:
        return student.with_unet(student.config, weights)

    def watched(weights: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        return watch(model(weights), recipe.world, 4, None)

    run = Run(sources.run, name, is_first())
    measure = watched if sources.is_own else None
    sources.write(model(fit(run, stage, recipe.plans[name], seed, measure)), folder)
