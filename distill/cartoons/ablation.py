"""Ablation: what each part of the recipe is worth, by students of one teacher in equal time.

All have the run's VAE, clips and teacher, and are judged by its judge on the same captions. Rows
that need no training come first: the teacher in a student's steps, and the run's own student with
and without what its decoding adds.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hummingbird_edge.distill.cartoons.budget import choose_device, is_first, parse_budget, wait
from hummingbird_edge.distill.cartoons.judging import read_judge
from hummingbird_edge.distill.cartoons.recipe import RECIPES, Recipe
from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation
from hummingbird_edge.distill.cartoons.session import Session
from hummingbird_edge.distill.cartoons.stages import SCORED_BATCH, STAGES
from hummingbird_edge.distill.evaluation import FIRST_SEED
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.sampling import generate
from hummingbird_edge.distill.world.cartoons.judge import Judge
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import atomic_path, read_record, sha256_of, write_json

__all__ = ["Ablation", "ablate", "ablation_table", "variants"]

CAPTIONS_SEED = 3
"""Chooses the captions that are judged."""
SHOWN = ("noun", "ground", "path", "size", "all", "flicker")
"""Figures of the table."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """What is compared, and by what."""

    run: Path
    """Its VAE, judge, clips and teacher are finished."""
    budget: str = "3m"
    """Time of each student, as in 90s or 3m."""
    captions: int = 48
    """Held-out shots that are judged."""
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Variant:
    """How one student is trained."""

    recipe: Recipe
    stages: tuple[str, ...] = ("matching",)
    """They share the time."""


def variants(recipe: Recipe, has_critic: bool) -> dict[str, Variant]:
    """Return the students that are trained; the last one where a critic can reward it."""
    pruning = "not pruned" if recipe.is_pruned else "pruned to half"
    both = ("matching", "consistency")
    found = {
        "stage 1": Variant(recipe),
        f"stage 1, {pruning}": Variant(replace(recipe, is_pruned=not recipe.is_pruned)),
        "stage 1 without the teacher's predictions": Variant(_unmatched(recipe, "output_weight")),
        "stage 1 without the teacher's features": Variant(_unmatched(recipe, "feature_weight")),
        "half of the time stage 2": Variant(replace(recipe, reward_weight=0.0), both),
    }
    if has_critic:
        found["half of the time stage 2 with the critic"] = Variant(recipe, both)
    return found


def _unmatched(recipe: Recipe, weight: str) -> Recipe:
    """Return the recipe with one of stage 1's losses left out."""
    return replace(recipe, matching=replace(recipe.matching, **{weight: 0.0}))


def ablate(order: Ablation) -> str:
    """Train and judge what is not finished; returns a Markdown table.

    Each row is written to RUN/ablation.json at once, which keeps those of this teacher and these
    settings. Of several processes the first one judges, and has the table. Raises HummingbirdError.
    """
    judge = read_judge(order.run)
    recipe = _recipe_of(judge, order.run)
    budget_s, device = parse_budget(order.budget), choose_device(order.device)
    sprites = Sprites.read((*recipe.world.nouns, *recipe.unseen), device)
    session = Session(order.run, recipe, sprites, device, order.seed, {})
    for require in (session.teacher, session.clips):
        require()  # before minutes of training
    evaluation = CartoonsEvaluation(judge.to(device), recipe.world, sprites)
    settings = {
        "budget_s": budget_s,
        "captions": order.captions,
        "seed": order.seed,
        "teacher_sha256": sha256_of(order.run / "teacher.pt"),
    }
    path = order.run / "ablation.json"
    rows = {name: row for name, row in read_record(path).items() if row.items() >= settings.items()}
    wait()  # nobody writes before everybody has read
    for name, make in _models(session, budget_s).items():
        if name in rows:
            continue
        model = make()
        if is_first():
            rows[name] = {**_judge(evaluation, model, order.captions), **settings}
            with atomic_path(path) as partial_path:
                write_json(partial_path, rows)
        wait()
    return ablation_table(rows) if is_first() else ""


def _recipe_of(judge: Judge, run: Path) -> Recipe:
    """Return the recipe of a run by the nouns that its judge knows; raises RequestError."""
    for recipe in RECIPES.values():
        if recipe.world.nouns == judge.config.seen:
            return recipe
    raise RequestError(
        f"{run} has a judge of {len(judge.config.seen)} nouns, which no recipe has: train one "
        f"with hb-distill all"
    )


def _models(session: Session, budget_s: float) -> dict[str, Callable[[], Model]]:
    """Return how the model of each row is made, by every process."""
    folder = session.run / "student"
    rows: dict[str, Callable[[], Model]] = {
        "teacher in a student's steps": partial(_hasty_teacher, session)
    }
    if folder.exists():
        rows["student"] = partial(Model.read, folder)
        rows["student, noise left in"] = partial(_noisy_student, folder)
        rows["student, noise left in, decoder of the VAE"] = partial(
            _noisy_student, folder, session
        )
    for name, variant in variants(session.recipe, session.has("critic")).items():
        rows[name] = partial(_train, session, name, variant, budget_s)
    return rows


def _hasty_teacher(session: Session) -> Model:
    """Return the teacher, sampled as its student is, but guided in two passes."""
    teacher = session.teacher()
    config = session.recipe.student_config(teacher.config, teacher.config.unet)
    return replace(teacher, config=config)


def _noisy_student(folder: Path, decoder: Session | None = None) -> Model:
    """Return the student in `folder`, its noise left in, decoded by `decoder`'s VAE if given."""
    model = Model.read(folder)
    model = replace(model, config=replace(model.config, temporal_noise=0.0))
    return model if decoder is None else replace(model, vae=decoder.vae())


def _train(session: Session, name: str, variant: Variant, budget_s: float) -> Model:
    """Train one student in a folder of its own, going on where that was stopped."""
    slug = re.sub("[^a-z0-9]+", "-", name)
    folder = session.run / "ablation" / f"{slug}-{budget_s:g}s-{session.seed}"
    own = replace(
        session,
        run=folder,
        base=session.run,
        recipe=variant.recipe,
        budgets=dict.fromkeys(variant.stages, budget_s / len(variant.stages)),
    )
    for stage in variant.stages:
        STAGES[stage](own)
    return own.student(own.teacher(), own.finished_state(variant.stages[-1]))


def _judge(evaluation: CartoonsEvaluation, model: Model, captions: int) -> dict[str, Any]:
    """Return the scores of a model, and what a clip of it costs."""
    shots, texts = zip(*evaluation.sample(captions, CAPTIONS_SEED), strict=True)
    model.frozen(evaluation.sprites.device)
    made = generate(model, texts, seed=FIRST_SEED, batch=SCORED_BATCH)
    scores = evaluation.score(made, shots)
    unet, steps = model.config.unet, model.config.defaults.steps
    return {
        **scores.accuracy,
        **scores.quality,
        "unet_parameters": sum(weight.numel() for weight in model.unet.parameters()),
        "unet_passes": steps if unet.guidance_width else 2 * steps,
    }


def ablation_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the rows of RUN/ablation.json as a Markdown table."""
    lines = [f"| | U-Net | passes | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 3) + "|"]
    for name, row in rows.items():
        figures = " | ".join(f"{100 * row[key]:.1f} %" for key in SHOWN)
        millions, passes = row["unet_parameters"] / 1e6, row["unet_passes"]
        lines.append(f"| {name} | {millions:.1f} M | {passes} | {figures} |")
    return "\n".join(lines)
