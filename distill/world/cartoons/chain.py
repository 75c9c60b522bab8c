"""The whole recipe, or some of its stages, within one budget of time.

    python -m hummingbird_edge.distill.world.cartoons.chain RUN --budget 9m --device auto
    torchrun --nproc-per-node 2 -m hummingbird_edge.distill.world.cartoons.chain RUN --budget 10h

    vae           RUN/vae.pt               the autoencoder
    judge         RUN/judge.pt             reads clips, rendered and reconstructed
    clips         RUN/clips.safetensors    the world's clips, encoded
    teacher       RUN/teacher/             reads, then paints frames, then moves them
    matching      RUN/matched/             the pruned U-Net does as the teacher does
    consistency   RUN/student/             four steps
    score         RUN/scores.json          what the judge says, and RUN/student.png to look at

Every stage gets its share of the time. Run again with the same budget, it goes on where it was
stopped. `--start FOLDER` begins from weights that another run packed, `--pack FOLDER` packs them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import distributed

from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.stages import prune_model
from hummingbird_edge.distill.train.consistency import ConsistencyStage
from hummingbird_edge.distill.train.matching import MatchingStage
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.distill.world.cartoons.autoencoder import FrameStage, measure_vae
from hummingbird_edge.distill.world.cartoons.budget import (
    choose_device,
    fit_budget,
    is_first,
    parse_budget,
)
from hummingbird_edge.distill.world.cartoons.delivery import pack, unpack
from hummingbird_edge.distill.world.cartoons.judge import Judge, JudgeConfig
from hummingbird_edge.distill.world.cartoons.judging import JudgeStage, measure_judge
from hummingbird_edge.distill.world.cartoons.pool import draw_clips
from hummingbird_edge.distill.world.cartoons.recipe import RECIPE, TINY, Recipe
from hummingbird_edge.distill.world.cartoons.scoring import score_model
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.distill.world.cartoons.teacher import TeacherStage
from hummingbird_edge.export.models.config import ModelConfig, VAEConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError

__all__ = ["STAGES", "Session", "main"]

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the recipe on one device."""

    run: Path
    recipe: Recipe
    sprites: Sprites
    device: torch.device
    seed: int
    budgets: Mapping[str, float]
    """Seconds of each stage that is run."""
    scored: int = 100
    """Held-out shots that the student is scored on."""

    def batch(self, stage: str) -> int:
        """Return how many clips a step of `stage` has on this device."""
        plan = self.recipe.plans[stage]
        return plan.gpu_batch if self.device.type == "cuda" else plan.cpu_batch

    def fit(
        self,
        name: str,
        stage: Stage[torch.nn.Module],
        config: Mapping[str, object],
        measure: Callable[[Weights], Mapping[str, float]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Train one stage for its share of the time; returns its averaged weights."""
        schedule = self.recipe.plans[name].schedule
        run = Run(self.run, name, is_first())
        return fit_budget(run, stage, schedule, self.budgets[name], self.seed, measure, config)

    def state(self, stage: str) -> dict[str, object]:
        """Return the checkpoint of a stage; raises RequestError where there is none."""
        state = Run(self.run, stage).load()
        if state is None:
            raise RequestError(f"{self.run} has no {stage} yet: run that stage first")
        return state

    def vae(self) -> VAE:
        """Return the run's trained VAE, frozen."""
        state = self.state("vae")
        vae = VAE(VAEConfig(**state["config"])).to(self.device)  # type: ignore[arg-type]
        vae.load_state_dict(state["average"])  # type: ignore[arg-type]
        vae.eval().requires_grad_(False)
        return vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def judge(self) -> Judge:
        """Return the run's trained judge, frozen."""
        state = self.state("judge")
        judge = Judge(JudgeConfig(**state["config"])).to(self.device)  # type: ignore[arg-type]
        judge.load_state_dict(state["average"])  # type: ignore[arg-type]
        return judge.eval().requires_grad_(False)

    def write(self, model: Model, folder: str) -> None:
        """Write a model folder once, and let every process wait for it."""
        if is_first():
            model.write(self.run / folder)
        wait()


def wait() -> None:
    """Wait until every process has come this far."""
    if distributed.is_initialized():
        distributed.barrier()


def train_vae(session: Session) -> None:
    """Train the VAE."""
    config, world = session.recipe.teacher.vae, session.recipe.world

    def watch(weights: Weights) -> Mapping[str, float]:
        vae = VAE(config).to(session.device)
        vae.load_state_dict(weights)
        return measure_vae(vae, world, session.sprites, count=64)

    stage = FrameStage(config, world, session.sprites, session.batch("vae"))
    session.fit("vae", stage, asdict(config), watch)


def train_judge(session: Session) -> None:
    """Train the judge, on reconstructions of the VAE too."""
    world = session.recipe.world
    config = JudgeConfig.of(world)

    def watch(weights: Weights) -> Mapping[str, float]:
        judge = Judge(config).to(session.device)
        judge.load_state_dict(weights)
        return measure_judge(judge.eval(), world, session.sprites, count=96)

    args = (world, session.sprites, session.batch("judge"), session.vae())
    session.fit("judge", JudgeStage(Judge(config), *args), asdict(config), watch)


def make_clips(session: Session) -> None:
    """Encode clips, once; latents keep the scale that a teacher was trained with."""
    path = session.run / "clips.safetensors"
    if is_first() and not path.exists():
        teacher = Run(session.run, "teacher").load()
        factor = teacher["config"]["vae"]["scaling_factor"] if teacher is not None else None
        recipe, seconds = session.recipe, session.budgets["clips"]
        args = (session.vae(), recipe.world, session.sprites, recipe.clips, seconds, session.seed)
        draw_clips(*args, factor).write(path)
    wait()


def train_teacher(session: Session) -> None:
    """Train text encoder and U-Net; writes RUN/teacher."""
    recipe, clips = session.recipe, Clips.read(session.run / "clips.safetensors")
    if is_first():
        recipe.tokenizer(session.run)
    wait()
    tokenizer = recipe.tokenizer(session.run)
    config = recipe.teacher_config(tokenizer, clips.scaling_factor)
    args = (config, recipe.world, clips, tokenizer, session.batch("teacher"), session.device)
    weights = session.fit("teacher", TeacherStage(*args), config.to_dict())
    text, unet = TextEncoder(config.text), UNet(config.unet)
    text.load_state_dict(_part(weights, "text."))
    unet.load_state_dict(_part(weights, "unet."))
    session.write(Model(config, text, unet, session.vae(), tokenizer), "teacher")


def _part(weights: Weights, prefix: str) -> dict[str, torch.Tensor]:
    own = {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in own.items()}


def train_matching(session: Session) -> None:
    """Prune the teacher and let the student do as it does; writes RUN/matched."""
    recipe, clips = session.recipe, Clips.read(session.run / "clips.safetensors")
    teacher = Model.read(session.run / "teacher")
    unet = recipe.student_unet()
    config = recipe.student_config(teacher.config, unet)
    student, _ = prune_model(teacher, unet, config, clips)
    args = (clips, recipe.matching, session.batch("matching"), session.device)
    stage = MatchingStage(teacher, student.unet, *args)
    weights = session.fit("matching", stage, config.to_dict())
    session.write(student.with_unet(config, weights), "matched")


def train_consistency(session: Session) -> None:
    """Distil to a few steps; writes RUN/student."""
    recipe, clips = session.recipe, Clips.read(session.run / "clips.safetensors")
    teacher = Model.read(session.run / "teacher")
    known = Run(session.run, "consistency").load()
    student = Model.read(session.run / "matched") if known is None else _student(known, teacher)
    args = (clips, {}, recipe.consistency, session.batch("consistency"), session.device)
    stage = ConsistencyStage(teacher, student.unet, *args)
    weights = session.fit("consistency", stage, student.config.to_dict())
    session.write(student.with_unet(student.config, weights), "student")


def _student(state: Mapping[str, object], teacher: Model) -> Model:
    """Return a student whose weights are those of its checkpoint."""
    config = ModelConfig.from_dict(state["config"])  # type: ignore[arg-type]
    return teacher.with_unet(config, state["average"])  # type: ignore[arg-type]


def score(session: Session) -> None:
    """Score the student and, on fewer shots, its teacher; writes RUN/scores.json and pictures."""
    if not is_first():
        return
    judge, figures = session.judge(), {}
    for name, count in (("student", session.scored), ("teacher", session.scored // 4)):
        model = Model.read(session.run / name).frozen(session.device)
        args = (model, judge, session.recipe.world, session.sprites, max(4, count))
        scores = score_model(*args)
        figures[name] = {"clips": scores.clips, **scores.accuracy, "frechet": scores.frechet}
        rows = [np.concatenate(list(clip[:: max(1, len(clip) // 8)]), 1) for clip in scores.frames]
        Image.fromarray(np.concatenate(rows)).save(session.run / f"{name}.png")
        (session.run / f"{name}.txt").write_text("\n".join(scores.captions) + "\n", "utf-8")
    text = json.dumps(figures, indent=2)
    (session.run / "scores.json").write_text(text + "\n", "utf-8")
    print(text)


STAGES: Mapping[str, Callable[[Session], None]] = {
    "vae": train_vae,
    "judge": train_judge,
    "clips": make_clips,
    "teacher": train_teacher,
    "matching": train_matching,
    "consistency": train_consistency,
    "score": score,
}


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
    parser.add_argument("--stages", help="stages to run, with commas; all of them by default")
    parser.add_argument("--start", type=Path, help="begin from weights that --pack wrote")
    parser.add_argument("--pack", type=Path, help="write halves of all weights to this folder")
    parser.add_argument("--scored", type=int, default=100, help="held-out shots to score")
    parser.add_argument("--tiny", action="store_true", help="a recipe of seconds, to try it out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except HummingbirdError as error:
        sys.exit(f"error: {error}")


def _run(options: argparse.Namespace) -> None:
    recipe = TINY if options.tiny else RECIPE
    stages = options.stages.split(",") if options.stages else list(STAGES)
    if unknown := set(stages) - set(STAGES):
        known = ", ".join(STAGES)
        raise RequestError(f"--stages names {', '.join(sorted(unknown))}: known are {known}")
    device = choose_device(options.device)
    budgets = share_out(recipe, stages, parse_budget(options.budget))
    if options.start is not None and is_first() and not list(options.run.glob("*.pt")):
        unpack(options.start, options.run)
    wait()
    sprites = Sprites.read(recipe.world.nouns, device)
    session = Session(
        options.run, recipe, sprites, device, options.seed, budgets, options.scored
    )
    torch.manual_seed(options.seed)
    for stage in stages:
        STAGES[stage](session)
        if options.pack is not None and is_first():
            pack(options.run, options.pack)


if __name__ == "__main__":
    main()
