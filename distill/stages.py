"""The stages of a run, in order: each reads what the ones before it left in the run's folder.

    autoencoder   RUN/autoencoder.pt      the VAE
    clips         RUN/clips.safetensors   the world's clips, encoded
    teacher       RUN/teacher/            text encoder and U-Net of VideoCrafter2's shape
    prune         RUN/pruned/             the teacher's U-Net with fewer blocks
    matching      RUN/matched/            stage 1: the pruned U-Net does as the teacher does
    scorer        RUN/scorer.pt           a contrastive reward
    consistency   RUN/distilled/          stage 2: few steps, visual feedback
    decoder       RUN/student/            the VAE's decoder, on latents that are a little off

`TEACHER/`, `RUN/pruned/` and the rest are model folders (`model.Model`); published checkpoints and
clips of one's own take their places by `Sources`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hummingbird_edge.distill.data.batches import Batches
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.train.autoencoder import AutoencoderStage, DecoderStage, measure
from hummingbird_edge.distill.train.consistency import ConsistencyStage
from hummingbird_edge.distill.train.diffusion import Diffusion
from hummingbird_edge.distill.train.matching import MatchingStage
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import device, in_turn, is_first
from hummingbird_edge.distill.train.prune import Probe, Pruning, importance, plan_pruning, prune
from hummingbird_edge.distill.train.reward import Reward, ShapesReward, load_reward
from hummingbird_edge.distill.train.run import Run, load_finished
from hummingbird_edge.distill.train.sampling import generate
from hummingbird_edge.distill.train.scorer import ContrastiveReward, ScorerStage
from hummingbird_edge.distill.train.teacher import TeacherStage
from hummingbird_edge.distill.train.training import fit, generator_of
from hummingbird_edge.distill.world.judge import judge, score
from hummingbird_edge.distill.world.shapes import World, sample_held_out
from hummingbird_edge.export.models.config import PRESETS, ModelConfig, UNetConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import RequestError

__all__ = [
    "STAGES",
    "WATCHED_SEED",
    "Sources",
    "draw_clips",
    "prune_model",
    "train_autoencoder",
    "train_consistency",
    "train_decoder",
    "train_matching",
    "train_scorer",
    "train_teacher",
    "with_plan",
    "write_pruned",
]

WATCHED = 48
"""Held-out captions on which a training run is watched."""
WATCHED_SEED = 1
"""Draws them; scores that are to be published leave them out."""


@dataclass(frozen=True)
class Sources:
    """Where a stage finds what it starts from; what is None is the run's own."""

    run: Path
    teacher: Path | None = None
    """A model folder or any checkpoint that hb-export build takes."""
    student: Path | None = None
    """Likewise: where stage 1 or 2 starts."""
    clips: Path | None = None
    """Encoded clips, as `hb-distill clips` writes them."""
    scorer: Path | None = None
    """The folder of the run that trained the contrastive reward."""

    def read_teacher(self) -> Model:
        """Read the teacher."""
        return Model.read(self.teacher or _made(self.run / "teacher", "teacher", self.run))

    def read_student(self, stage: str) -> Model:
        """Read the student that the stage before `stage` made."""
        folder, maker = {
            "matching": ("pruned", "prune"),
            "consistency": ("matched", "matching"),
            "decoder": ("distilled", "consistency"),
        }[stage]
        return Model.read(self.student or _made(self.run / folder, maker, self.run))

    def read_clips(self) -> Clips:
        """Read the encoded clips."""
        return Clips.read(self.clips or _made(self.run / "clips.safetensors", "clips", self.run))


def _made(path: Path, maker: str, run: Path) -> Path:
    if not path.exists():
        raise RequestError(f"{path} is not there: run hb-distill {maker} {run} first")
    return path


def train_autoencoder(sources: Sources, recipe: Recipe, seed: int) -> None:
    """Train the VAE on frames of the world."""
    plan = recipe.plans["autoencoder"]
    torch.manual_seed(seed)
    stage = AutoencoderStage(recipe.teacher.vae, recipe.world, plan.batch, device())

    def watch(weights: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        vae = VAE(recipe.teacher.vae).to(device())
        vae.load_state_dict(weights)
        return measure(vae, recipe.world)

    fit(Run(sources.run, "autoencoder"), stage, plan, seed, watch)


def draw_clips(sources: Sources, recipe: Recipe, seed: int) -> None:
    """Draw and encode the world's clips, once for all stages."""
    path = sources.run / "clips.safetensors"
    with in_turn():
        if not path.exists():
            Clips.drawn(_vae(sources, recipe), recipe.world, recipe.clips, seed).write(path)


def _vae(sources: Sources, recipe: Recipe) -> VAE:
    state = Run(sources.run, "autoencoder").load()
    if state is None:
        raise RequestError(
            f"{sources.run} has no autoencoder: run hb-distill autoencoder {sources.run} first"
        )
    vae = VAE(recipe.teacher.vae)
    load_finished(Run(sources.run, "autoencoder"), state, vae)
    vae.eval().requires_grad_(False).to(device())
    return vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train_teacher(sources: Sources, recipe: Recipe, seed: int) -> None:
    """Train text encoder and U-Net on encoded clips; writes RUN/teacher."""
    plan, clips = recipe.plans["teacher"], sources.read_clips()
    with in_turn():
        tokenizer = recipe.tokenizer(sources.run)
    config = recipe.teacher_config(tokenizer, clips.scaling_factor)
    vae = _vae(sources, recipe)
    torch.manual_seed(seed)
    run = Run(sources.run, "teacher", is_first())
    args = (config, recipe.world, clips, tokenizer, plan.batch, device())
    stage = TeacherStage(*args)
    if not run.checkpoint_path.exists():
        run.log(step=0, **stage.learn_to_read(generator_of(seed, -1, 0)))

    def model(weights: Mapping[str, torch.Tensor]) -> Model:
        parts: dict[str, dict[str, torch.Tensor]] = {"text": {}, "unet": {}, "reader": {}}
        for name, tensor in weights.items():
            network, rest = name.split(".", 1)
            parts[network][rest] = tensor
        text, unet = TextEncoder(config.text).to(device()), UNet(config.unet).to(device())
        text.load_state_dict(parts["text"])
        unet.load_state_dict(parts["unet"])
        return Model(config, text, unet, vae, tokenizer)

    weights = fit(run, stage, plan, seed, lambda w: watch(model(w), recipe.world, 8, 1.0))
    _write(model(weights), sources, "teacher")


def watch(model: Model, world: World, steps: int, guidance: float | None) -> dict[str, float]:
    """Judge one clip of each of a few held-out captions: the share right, by attribute."""
    pairs = sample_held_out(world, WATCHED, WATCHED_SEED)
    clips = generate(model.frozen(device()), [caption for _, caption in pairs], steps, guidance)
    rows = [
        score(judge(clip), scene.background, [asdict(actor) for actor in scene.actors])
        for clip, (scene, _) in zip(clips, pairs, strict=True)
    ]
    return {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}


def prune_model(
    teacher: Model, student: UNetConfig, config: ModelConfig, clips: Clips | None
) -> tuple[Model, Pruning]:
    """Return the pruned model and what was kept; without clips, noise measures importance."""
    probes = _probes(teacher, clips)
    worth = importance(teacher.unet.eval(), probes)
    pruning = plan_pruning(teacher.config.unet, student, worth)
    with torch.device("meta"):
        unet = UNet(student)
    unet.load_state_dict(prune(teacher.unet.state_dict(), pruning, student), assign=True)
    return Model(config, teacher.text, unet, teacher.vae, teacher.tokenizer), pruning


def _probes(teacher: Model, clips: Clips | None) -> list[Probe]:
    """Draw inputs at five noise levels: clips with their captions, or noise and an empty prompt."""
    generator, diffusion = torch.Generator().manual_seed(0), Diffusion(teacher.config.sampler())
    config, probes = teacher.config.unet, []
    for t in (999, 759, 519, 279, 39):
        if clips is None:
            side = 2 * config.downsampling
            shape = (1, config.latent_channels, 4, side, side)
            x0, ids = torch.zeros(shape), teacher.ids([""])
        else:
            batch = Batches(clips, teacher.tokenizer, torch.device("cpu")).draw(8, generator)
            x0, ids = batch.x0, batch.ids
        timestep = torch.full((len(x0),), t)
        noise = torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            context = teacher.text(ids)
        x_t = diffusion.noised(x0, noise, timestep, torch.ones(1))
        probes.append(Probe(x_t, timestep, context))
    return probes


def write_pruned(sources: Sources, recipe: Recipe, preset: str | None = None) -> Pruning:
    """Prune the teacher to the recipe's shape, or to a published one; writes RUN/pruned.

    Clips of the run measure what each block is worth, where there are any.
    """
    teacher = sources.read_teacher()
    if preset is None:
        student = recipe.student_unet()
        config = recipe.student_config(teacher.config, student)
    elif preset in PRESETS:
        config = PRESETS[preset]
        student = config.unet
    else:
        raise RequestError(f"no preset {preset!r}: known are {', '.join(PRESETS)}")
    has_clips = sources.clips or (sources.run / "clips.safetensors").exists()
    clips = sources.read_clips() if has_clips else None
    model, pruning = prune_model(teacher, student, config, clips)
    _write(model, sources, "pruned")
    if is_first():
        pruning.write(sources.run / "prune.json")
    return pruning


def train_matching(sources: Sources, recipe: Recipe, seed: int) -> None:
    """Stage 1 of distillation; writes RUN/matched."""
    plan, teacher = recipe.plans["matching"], sources.read_teacher()
    student, clips = sources.read_student("matching"), sources.read_clips()
    clips.check_fits(teacher.config)
    stage = MatchingStage(teacher, student.unet, clips, recipe.matching, plan.batch, device())
    _fit_student("matching", "matched", sources, recipe, student, stage, seed)


def train_scorer(sources: Sources, recipe: Recipe, seed: int) -> None:
    """Train the contrastive reward on clips of the world."""
    with in_turn():
        plan, tokenizer = recipe.plans["scorer"], recipe.tokenizer(sources.run)
    torch.manual_seed(seed)
    stage = ScorerStage(recipe.world, tokenizer, plan.batch, device())
    fit(Run(sources.run, "scorer"), stage, plan, seed)


def train_consistency(sources: Sources, recipe: Recipe, seed: int) -> None:
    """Stage 2 of distillation; writes RUN/distilled."""
    plan, teacher = recipe.plans["consistency"], sources.read_teacher()
    student, clips = sources.read_student("consistency"), sources.read_clips()
    clips.check_fits(teacher.config)
    stage = ConsistencyStage(
        teacher,
        student.unet,
        clips,
        _rewards(sources, recipe, teacher),
        recipe.consistency,
        plan.batch,
        device(),
    )
    _fit_student("consistency", "distilled", sources, recipe, student, stage, seed)


def train_decoder(sources: Sources, recipe: Recipe, seed: int) -> None:
    """Finetune the VAE's decoder for latents that are made; writes RUN/student."""
    plan, student = recipe.plans["decoder"], sources.read_student("decoder")
    factor = student.config.vae.scaling_factor
    stage = DecoderStage(student.vae, factor, recipe.world, plan.batch, device())

    def vae(weights: Mapping[str, torch.Tensor]) -> VAE:
        made = VAE(student.config.vae).to(device())
        made.load_state_dict(weights)
        return made

    run = Run(sources.run, "decoder", is_first())
    weights = fit(run, stage, plan, seed, lambda w: measure(vae(w), recipe.world))
    _write(replace(student, vae=vae(weights)), sources, "student")


def _rewards(sources: Sources, recipe: Recipe, teacher: Model) -> dict[str, tuple[float, Reward]]:
    def scorer() -> Reward:
        return ContrastiveReward.read(sources.scorer or sources.run, teacher.tokenizer, device())

    known: Mapping[str, Callable[[], Reward]] = {"shapes": ShapesReward, "scorer": scorer}
    return {
        name: (weight, known[name]() if name in known else load_reward(name))
        for name, weight in recipe.rewards.items()
        if weight
    }


def _fit_student(
    name: str,
    folder: str,
    sources: Sources,
    recipe: Recipe,
    student: Model,
    stage: MatchingStage | ConsistencyStage,
    seed: int,
) -> None:
    """Train a student's U-Net and write it as a model folder."""

    def model(weights: Mapping[str, torch.Tensor]) -> Model:
        return student.with_unet(student.config, weights)

    run, world = Run(sources.run, name, is_first()), recipe.world
    plan = recipe.plans[name]
    # Only models of this world can be judged.
    is_ours = sources.teacher is None and sources.clips is None
    measured = (lambda w: watch(model(w), world, 4, None)) if is_ours else None
    weights = fit(run, stage, plan, seed, measured)
    _write(model(weights), sources, folder)


def _write(model: Model, sources: Sources, folder: str) -> None:
    with in_turn():
        if is_first():
            model.write(sources.run / folder)


def with_plan(
    recipe: Recipe, stage: str, steps: int | None = None, batch: int | None = None
) -> Recipe:
    """Return the recipe with another length or batch of one stage, where they are given."""
    plan = recipe.plans.get(stage)
    if plan is None:
        return recipe
    plan = replace(plan, steps=steps or plan.steps, batch=batch or plan.batch)
    return replace(recipe, plans={**recipe.plans, stage: plan})


STAGES: Mapping[str, Callable[[Sources, Recipe, int], object]] = {
    "autoencoder": train_autoencoder,
    "clips": draw_clips,
    "teacher": train_teacher,
    "prune": lambda sources, recipe, seed: write_pruned(sources, recipe),
    "matching": train_matching,
    "scorer": train_scorer,
    "consistency": train_consistency,
    "decoder": train_decoder,
}
"""Every stage by its name, in the order in which they run."""
