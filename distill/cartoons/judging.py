"""Train the judge of the cartoons world, and measure how often it is right."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hummingbird_edge.distill.cartoons.budget import TimedStage
from hummingbird_edge.distill.cartoons.delivery import read_stages
from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.world.cartoons.catalog import NOUNS
from hummingbird_edge.distill.world.cartoons.judge import LOOKS, Judge, JudgeConfig
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import GROUNDS, PATHS, SIZES, World
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import CheckpointError

__all__ = [
    "BUILTIN_JUDGE",
    "JudgeStage",
    "build_judge",
    "degrade",
    "measure_judge",
    "read_judge",
    "reconstruct",
]

BUILTIN_JUDGE = Path(__file__).parent / "weights" / "judge"
"""Weights of the judge that scored the built-in model."""
FRAMES_SHARE = 0.4
"""Share of the time in which single frames are learned from: noun and ground need no order."""
RECONSTRUCTED_SHARE = 0.25
"""Share of clips that went through the VAE, where there is one."""
LABEL_SMOOTHING = 0.02


def build_judge(state: Mapping[str, Any], source: Path) -> Judge:
    """Build a stage's trained judge, frozen; raises CheckpointError, which names `source`."""
    try:
        config = JudgeConfig(**state["config"])
        pairs = zip(_names(config), (NOUNS, PATHS, SIZES, GROUNDS), strict=True)
        names_are_known = all(own and set(own) <= set(known) for own, known in pairs)
        if not names_are_known or not set(config.unseen) < set(config.nouns):
            raise ValueError("it names what this world lacks")
        judge = Judge(config)
        judge.load_state_dict(state["average"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source} is a judge of another shape ({str(error).splitlines()[0]}): delete the file "
            f"and train the stage again"
        ) from error
    return judge.eval().requires_grad_(False)


def _names(config: JudgeConfig) -> tuple[tuple[str, ...], ...]:
    return config.nouns, config.paths, config.sizes, config.grounds


def read_judge(folder: Path) -> Judge:
    """Read the judge of a run, or one among carried weights; raises CheckpointError."""
    if (folder / "judge.pt").exists():
        run = Run(folder, "judge")
        state = run.load()
        assert state is not None
        return build_judge(state, run.checkpoint_path)
    stages = read_stages(folder) if list(folder.glob("weights-*.safetensors")) else {}
    if "judge" not in stages:
        raise CheckpointError(
            f"there is no judge in {folder}: name a run that trained one, or a folder that --pack "
            f"wrote"
        )
    return build_judge(stages["judge"], folder)


class JudgeStage(TimedStage[Judge]):
    """Read rendered clips, half of them with their sprite frozen."""

    def __init__(
        self, judge: Judge, world: World, sprites: Sprites, batch: int, vae: VAE | None = None
    ) -> None:
        super().__init__()
        self.trained = judge.to(sprites.device)
        self.world = replace(world, nouns=tuple(judge.config.nouns))
        self.sprites, self.batch = sprites, batch
        # Not a submodule: it is neither trained nor saved.
        self.vaes = [vae] if vae is not None else []

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the loss of each attribute and of the mask, and their sum."""
        is_single = self.share < FRAMES_SHARE
        count = self.batch * LOOKS if is_single else self.batch
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        shots = [self.world.draw(rng) for _ in range(count)]
        frozen = [rng.random() < 0.5 for _ in shots]
        if is_single:
            chosen = torch.randint(self.world.frames, (count, 1), generator=generator)
        else:
            chosen = torch.linspace(0, self.world.frames - 1, LOOKS).round().long()
            chosen = chosen.expand(count, -1)
        drawn = render(shots, self.world, self.sprites, generator, chosen, frozen)
        frames = drawn.frames
        if self.vaes:
            part = round(RECONSTRUCTED_SHARE * count)
            frames = torch.cat((reconstruct(self.vaes[0], frames[:part]), frames[part:]))
        frames = degrade(frames, generator)
        device = frames.device
        with mixed_precision(device):
            logits = self.trained(frames)
        targets = {name: x.to(device) for name, x in self.trained.labels(shots).items()}
        targets["action"] = (~torch.tensor(frozen)).long().to(device)
        names = ("noun", "ground") if is_single else tuple(targets)
        losses = {
            name: _loss(getattr(logits, name), targets[name], name in names) for name in targets
        }
        mask = functional.adaptive_avg_pool2d(drawn.alpha[:, :, 0], logits.mask.shape[-1])
        losses["mask"] = functional.binary_cross_entropy_with_logits(logits.mask, mask)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def _loss(logits: Tensor, target: Tensor, counts: bool) -> Tensor:
    loss = functional.cross_entropy(logits.float(), target, label_smoothing=LABEL_SMOOTHING)
    return loss if counts else 0 * loss


def degrade(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, coarsen and add noise to clips (B, T, 3, H, W), each to a degree of its own."""
    side = frames.shape[-1]
    degraded = []
    for clip in frames:
        kind, degree, light = torch.rand(3, generator=generator).tolist()
        if kind < 0.3:  # as a decoder loses detail
            small = max(side // 3, round(side * (1 - 0.6 * degree)))
            clip = functional.interpolate(
                clip, size=(small, small), mode="bilinear", antialias=True
            )
            clip = functional.interpolate(clip, size=(side, side), mode="bilinear")
        elif kind < 0.45:  # as a codec flattens blocks
            blocks = (
                functional.avg_pool2d(clip, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
            )
            clip = torch.lerp(clip, blocks, 0.7 * degree)
        elif kind < 0.65:
            noise = torch.randn(clip.shape, generator=generator).to(clip.device)
            clip = clip + 0.06 * degree * noise
        degraded.append(clip * (0.92 + 0.16 * light))
    return torch.stack(degraded).clamp(0, 1)


@torch.no_grad()
def reconstruct(vae: VAE, frames: Tensor) -> Tensor:
    """Encode and decode clips (B, T, 3, H, W) in [0, 1]."""
    decoded = []
    for part in frames.flatten(0, 1).split(32):
        with mixed_precision(frames.device):
            mean = vae.encode(part * 2 - 1).chunk(2, dim=1)[0]
            decoded.append((vae.decode(mean).float() / 2 + 0.5).clamp(0, 1))
    return torch.cat(decoded).unflatten(0, frames.shape[:2])


@torch.no_grad()
def measure_judge(
    judge: Judge,
    world: World,
    sprites: Sprites,
    count: int = 400,
    seed: int = 4321,
    vae: VAE | None = None,
) -> dict[str, float]:
    """Return the share of held-out clips on which the judge is right, attribute by attribute.

    Half of the clips are frozen: `action` is the share whose action is rightly seen or missed.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    right: dict[str, int] = {}
    for start in range(0, count, 16):
        shots = [world.draw(rng, held_out=True) for _ in range(min(16, count - start))]
        frozen = [rng.random() < 0.5 for _ in shots]
        frames = render(shots, world, sprites, generator, frozen=frozen).frames
        if vae is not None:
            frames = reconstruct(vae, frames)
        verdicts = judge.verdicts(judge.look(frames))
        for verdict, shot, is_frozen in zip(verdicts, shots, frozen, strict=True):
            score = verdict.score(shot)
            score["action"] = verdict.is_acting != is_frozen
            for name, is_right in score.items():
                right[name] = right.get(name, 0) + is_right
    return {name: round(hits / count, 4) for name, hits in right.items()}
