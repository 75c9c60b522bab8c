"""Ablation: the recipe without each of its ingredients in turn, at the same budget.

Every variant has the same teacher and trains stage 2 for the same number of steps; those with
stage 1 start from the run's own, so the one without it has trained less in all. All are judged on
the same captions.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from hummingbird_edge.distill.evaluation import FIRST_SEED
from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.score import score_clips, unseen_captions
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.stages.students import train_consistency
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.sampling import embed_guidance, generate
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.runtime.files import atomic_path, sha256_of, write_json

__all__ = ["VARIANTS", "ablate", "ablation_table"]

VARIANTS = (
    "all ingredients",
    "without pruning",
    "without stage 1",
    "without reward feedback",
    "without the guidance embedding",
)


def ablate(
    sources: Sources, recipe: Recipe, steps: int = 150, captions: int = 200, seed: int = 0
) -> str:
    """Train and judge every variant that is not finished; returns a Markdown table.

    `steps` are those of stage 2, `captions` the held-out ones that are judged. Each result is
    written to RUN/ablation.json at once.
    """
    path = sources.run / "ablation.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in VARIANTS:
        if found.get(name, {}).get("steps") != steps or found[name].get("captions") != captions:
            found[name] = _train_and_judge(name, sources, recipe, steps, captions, seed)
            with atomic_path(path) as partial:
                write_json(partial, found)
    return ablation_table(path)


def _train_and_judge(
    name: str, sources: Sources, recipe: Recipe, steps: int, captions: int, seed: int
) -> dict[str, float]:
    folder = sources.run / "ablation" / name.replace(" ", "-")
    start = _starting_point(name, sources, recipe)
    weights, before = folder / "start" / "model.safetensors", None
    if weights.exists():
        before = sha256_of(weights)
    start.write(folder / "start")
    if before not in (None, sha256_of(weights)):  # the checkpoint continues another start
        Run(folder, "consistency").checkpoint_path.unlink(missing_ok=True)
    plan = replace(recipe.plans["consistency"], steps=steps, save_every=steps)
    changed = replace(recipe, plans={**recipe.plans, "consistency": plan})
    if name == "without reward feedback":
        changed = replace(changed, rewards={})
    teacher = sources.teacher or sources.run / "teacher"
    own = Sources(folder, teacher, folder / "start", sources.clips_path, scorer=sources.run)
    train_consistency(own, changed, seed)
    model = Model.read(folder / "distilled").frozen()
    pairs = unseen_captions(recipe.world, captions, seed=3)
    made = generate(model, [text for _, text in pairs], seed=FIRST_SEED)
    scores = score_clips(made, [scene for scene, _ in pairs], recipe.world)
    parameters = sum(p.numel() for p in model.unet.parameters())
    trained_s = Run(folder, "consistency").entries()[-1]["seconds"]
    return {
        **scores.accuracy,
        **scores.quality,
        "unet_parameters": parameters,
        "steps": steps,
        "captions": captions,
        "seconds": trained_s,
    }


def _starting_point(name: str, sources: Sources, recipe: Recipe) -> Model:
    """Return the model that a variant's stage 2 starts from."""
    if name == "without stage 1":
        return Model.read(sources.run / "pruned")
    if name == "without pruning":
        teacher = sources.read_teacher()
        unet = replace(teacher.config.unet, guidance_width=recipe.student_unet().guidance_width)
        config = recipe.student_config(teacher.config, unet)
        zero = torch.zeros(unet.width, unet.guidance_width or 0)
        return teacher.with_unet(
            config, {**teacher.unet.state_dict(), "time_cond_proj.weight": zero}
        )
    matched = sources.read_student("consistency")
    if name != "without the guidance embedding":
        return matched
    unet = recipe.student_unet(has_guidance=False)
    defaults = replace(matched.config.defaults, guidance=1.0)  # one pass a step
    config = replace(matched.config, unet=unet, defaults=defaults)
    weights = dict(matched.unet.state_dict())
    # Stage 1 embeds one w throughout: what it adds to the time embedding goes into its bias.
    embedded = embed_guidance([recipe.matching.guidance], matched.unet.config.guidance_width or 0)
    offset = weights["time_cond_proj.weight"] @ embedded[0]
    weights["time_embed.0.bias"] = (
        weights["time_embed.0.bias"] + weights["time_embed.0.weight"] @ offset
    )
    return matched.with_unet(config, {key: weights[key] for key in UNet(unet).state_dict()})


def ablation_table(path: Path) -> str:
    """Return RUN/ablation.json as a Markdown table."""
    found: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    shown = ("background", "colour", "size", "motion", "shape", "all", "subject_consistency")
    titles = " | ".join(name.replace("_", " ") for name in shown)
    lines = [f"| | {titles} | parameters | seconds |", "|---" * (len(shown) + 3) + "|"]
    for name, row in found.items():
        figures = " | ".join(f"{100 * row[key]:.1f} %" for key in shown)
        millions = row["unet_parameters"] / 1e6
        lines.append(f"| {name} | {figures} | {millions:.1f} M | {row['seconds']:.0f} |")
    return "\n".join(lines)
