"""The stages of the cartoons' recipe, in order: each reads what the ones before it left.

vae           RUN/vae.pt               the autoencoder
judge         RUN/judge.pt             reads clips, rendered and reconstructed
critic        RUN/critic.pt            another judge: one rewards, the other scores
clips         RUN/clips.safetensors    encoded clips, and RUN/shots.json: what each of them shows
teacher       RUN/teacher/             reads, then paints frames, then moves them
matching      RUN/matching.pt          the student, pruned or not, does as the guided teacher does
consistency   RUN/consistency.pt       four steps
decoder       RUN/student/             the VAE's decoder, on latents that are a little off; synonyms
                                       and temporal noise
measure       RUN/measured.json        VAE and judge on held-out clips
score         RUN/scores.json          what the judge says of student and teacher, with pictures
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hummingbird_edge.distill.cartoons.autoencoder import (
    DecoderStage,
    FrameStage,
    measure_vae,
)
from hummingbird_edge.distill.cartoons.budget import is_first, wait
from hummingbird_edge.distill.cartoons.judging import JudgeStage, measure_judge
from hummingbird_edge.distill.cartoons.pool import draw_clips, read_shots, write_shots
from hummingbird_edge.distill.cartoons.reward import JudgeReward
from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation
from hummingbird_edge.distill.cartoons.session import Session, Weights
from hummingbird_edge.distill.cartoons.synonyms import learn_synonyms
from hummingbird_edge.distill.cartoons.teacher import TeacherStage
from hummingbird_edge.distill.data.batches import Batches
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.evaluation import FIRST_SEED
from hummingbird_edge.distill.strip import write_strips
from hummingbird_edge.distill.train.consistency import ConsistencyStage
from hummingbird_edge.distill.train.diffusion import Diffusion
from hummingbird_edge.distill.train.matching import MatchingStage
from hummingbird_edge.distill.train.model import PROMPTS, Model
from hummingbird_edge.distill.train.prune import Probe, importance, plan_pruning, prune
from hummingbird_edge.distill.train.reward import Reward
from hummingbird_edge.distill.train.sampling import generate, measure_noise
from hummingbird_edge.distill.world.cartoons.judge import Judge, JudgeConfig
from hummingbird_edge.distill.world.cartoons.shots import describe
from hummingbird_edge.export.models.vae import VAE

__all__ = ["STAGES"]

PROBED = 2
"""Clips on which the teacher's blocks are measured."""
SCORED_SEED = 77
"""Chooses the captions that are judged."""
SCORED_BATCH = 16
"""Clips that are made at once to be judged."""
SHOWN = 16
"""Clips of which pictures are kept."""


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
    """Train the judge that scores, on reconstructions of the VAE too where the run has one."""
    _train_judge(session, "judge", session.seed)


def train_critic(session: Session) -> None:
    """Train another judge, from another seed, to reward."""
    _train_judge(session, "critic", session.seed + 1)


def _train_judge(session: Session, name: str, seed: int) -> None:
    world = session.recipe.world
    # What rewards is to know no more than the model.
    config = JudgeConfig.of(world, session.recipe.unseen if name == "judge" else ())

    def watch(weights: Weights) -> Mapping[str, float]:
        judge = Judge(config).to(session.device)
        judge.load_state_dict(weights)
        return measure_judge(judge.eval(), world, session.sprites, count=96)

    vae = session.vae() if session.has("vae") else None
    torch.manual_seed(seed)
    stage = JudgeStage(Judge(config), world, session.sprites, session.batch(name), vae)
    replace(session, seed=seed).fit(name, stage, asdict(config), watch)


def make_clips(session: Session) -> None:
    """Encode clips, once; latents keep the scale that a teacher was trained with."""
    path = session.run / "clips.safetensors"
    if is_first() and not path.exists():
        factor = session.scaling_factor() if session.has("teacher") else None
        recipe, seconds = session.recipe, session.budgets["clips"]
        args = (session.vae(), recipe.world, session.sprites, recipe.clips, seconds, session.seed)
        clips, shots = draw_clips(*args, factor)
        write_shots(shots, session.run / "shots.json")
        clips.write(path)
    wait()


def train_teacher(session: Session) -> None:
    """Train text encoder and U-Net; writes RUN/teacher."""
    recipe, clips, tokenizer = session.recipe, session.clips(), session.tokenizer()
    config = recipe.teacher_config(tokenizer, clips.scaling_factor)
    args = (config, recipe.world, clips, tokenizer, session.batch("teacher"), session.device)
    session.fit("teacher", TeacherStage(*args), config.to_dict())
    session.write(session.teacher(), "teacher")


def train_matching(session: Session) -> None:
    """Prune the teacher where the recipe does, and let the student do as it does."""
    recipe, clips, teacher = session.recipe, session.clips(), session.teacher()
    config = recipe.student_config(teacher.config, recipe.student_unet())
    worth: Mapping[str, float] = {}
    if recipe.is_pruned:
        worth = importance(teacher.unet.to(session.device).eval(), _probes(session, teacher, clips))
    pruning = plan_pruning(teacher.config.unet, config.unet, worth)
    student = teacher.with_unet(config, prune(teacher.unet.state_dict(), pruning, config.unet))
    args = (clips, recipe.matching, session.batch("matching"), session.device)
    stage = MatchingStage(teacher, student.unet, *args)
    session.fit("matching", stage, config.to_dict())


def _probes(session: Session, teacher: Model, clips: Clips) -> list[Probe]:
    """Draw what blocks are measured on: clips with their captions at three noise levels."""
    diffusion, device = Diffusion(teacher.config.sampler()), session.device
    generator = torch.Generator().manual_seed(session.seed)
    batch = Batches(clips, teacher.tokenizer, device).draw(PROBED, generator)
    noise = torch.randn(batch.x0.shape, generator=generator).to(device)
    with torch.no_grad():
        context = teacher.text.to(device)(batch.ids)
    probes = []
    for level in (999, 599, 279):
        t = torch.full((PROBED,), level, device=device)
        x_t = diffusion.noised(batch.x0, noise, t, torch.ones(1, device=device))
        probes.append(Probe(x_t, t, context))
    return probes


def train_consistency(session: Session) -> None:
    """Distil to a few steps."""
    recipe, clips, teacher = session.recipe, session.clips(), session.teacher()
    # Where it goes on, the weights that it began from may be gone.
    goes_on = session.has("consistency")
    begun = session.state("consistency") if goes_on else session.finished_state("matching")
    student = session.student(teacher, begun)
    batch = session.batch("consistency")
    rewards: dict[str, tuple[float, Reward]] = {}
    if session.has("critic") and recipe.reward_weight:
        shots = read_shots(clips, session.path("shots.json"))
        rewards["critic"] = (recipe.reward_weight, JudgeReward(session.judge("critic"), shots))
    stage = ConsistencyStage(
        teacher, student.unet, clips, rewards, recipe.consistency, batch, session.device
    )
    session.fit("consistency", stage, student.config.to_dict())


def train_decoder(session: Session) -> None:
    """Finetune the VAE's decoder for latents that are made; writes RUN/student.

    And RUN/teacher where its weights were carried here, to compare the student with.
    """
    world, teacher = session.recipe.world, session.teacher()
    student = session.student(teacher, session.finished_state("consistency"))
    vae, factor = session.vae(), student.config.vae.scaling_factor
    stage = DecoderStage(vae, factor, world, session.sprites, session.batch("decoder"))
    vae.load_state_dict(session.fit("decoder", stage, asdict(student.config.vae)))
    rng = random.Random(session.seed)
    prompts = [describe(world.draw(rng), rng) for _ in range(PROMPTS)]
    student = replace(student, vae=vae, prompts=prompts)
    if is_first():
        with TemporaryDirectory() as folder:
            taught = learn_synonyms(student, world.nouns, Path(folder))
            noise = measure_noise(taught.frozen(session.device), prompts)
            config = replace(taught.config, temporal_noise=noise)
            replace(taught, config=config).write(session.run / "student")
            if not (session.run / "teacher").exists():
                teacher.write(session.run / "teacher")
    wait()


def measure(session: Session) -> None:
    """Measure VAE and judge on held-out clips; writes RUN/measured.json."""
    if not is_first():
        return
    world, sprites = session.recipe.world, session.sprites
    vae = session.vae() if session.has("vae") else None
    figures: dict[str, Mapping[str, float]] = {}
    if vae is not None:
        figures["vae"] = measure_vae(vae, world, sprites)
    if session.has("judge"):
        judge = session.judge()
        count = session.scored
        figures["judge"] = measure_judge(judge, world, sprites, count)
        if vae is not None:
            figures["judge after the VAE"] = measure_judge(judge, world, sprites, count, vae=vae)
    _report(figures, session.run / "measured.json")


def _report(figures: Mapping[str, object], path: Path) -> None:
    text = json.dumps(figures, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    print(text)


def score(session: Session) -> None:
    """Score the student and, on fewer shots, its teacher; writes RUN/scores.json and pictures."""
    if not is_first():
        return
    figures: dict[str, Mapping[str, object]] = {}
    evaluation = CartoonsEvaluation(session.judge(), session.recipe.world, session.sprites)
    for name, count in (("student", session.scored), ("teacher", session.scored // 4)):
        model = Model.read(session.run / name).frozen(session.device)
        sampled = evaluation.sample(max(4, count), SCORED_SEED)
        captions = [caption for _, caption in sampled]
        clips = generate(model, captions, seed=FIRST_SEED, batch=SCORED_BATCH)
        figures[name] = asdict(evaluation.score(clips, [shot for shot, _ in sampled]))
        write_strips(session.run / f"{name}.png", list(clips[:SHOWN, ::2]), scale=1)
        text = "\n".join(captions[:SHOWN]) + "\n"
        (session.run / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    _report(figures, session.run / "scores.json")


STAGES: Mapping[str, Callable[[Session], None]] = {
    "vae": train_vae,
    "judge": train_judge,
    "critic": train_critic,
    "clips": make_clips,
    "teacher": train_teacher,
    "matching": train_matching,
    "consistency": train_consistency,
    "decoder": train_decoder,
    "measure": measure,
    "score": score,
}
