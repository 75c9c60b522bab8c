"""Train stages of the cartoons' model within a budget of time.

    python -m hummingbird_edge.distill.world.cartoons.train vae RUN --budget 2h --device auto
    torchrun --nproc-per-node 2 -m hummingbird_edge.distill.world.cartoons.train vae RUN --budget 2h

Run again, it goes on from the last checkpoint, which is a minute old at most.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.world.cartoons.autoencoder import VAE_CONFIG, FrameStage, measure_vae
from hummingbird_edge.distill.world.cartoons.budget import (
    Schedule,
    choose_device,
    fit_budget,
    is_first,
    parse_budget,
)
from hummingbird_edge.distill.world.cartoons.judge import Judge, JudgeConfig
from hummingbird_edge.distill.world.cartoons.judging import JudgeStage, measure_judge
from hummingbird_edge.distill.world.cartoons.shots import World
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.export.models.config import VAEConfig
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import HummingbirdError

__all__ = ["main", "read_vae", "train_judge", "train_vae"]


def world_of(options: argparse.Namespace) -> World:
    """Return the world that the options ask for."""
    world = World(resolution=options.resolution)
    return replace(world, nouns=world.nouns[: options.nouns]) if options.nouns else world


def train_vae(options: argparse.Namespace, device: torch.device) -> None:
    """Train the VAE on frames of the world; writes RUN/vae.pt."""
    world = world_of(options)
    sprites = Sprites.read(world.nouns, device)
    config = replace(
        VAE_CONFIG, latent_channels=options.latent_channels, width=options.width, groups=options.width // 8
    )
    torch.manual_seed(options.seed)
    is_gpu = device.type == "cuda"
    batch = options.batch or (192 if is_gpu else 8)
    stage = FrameStage(config, world, sprites, batch, compiled=is_gpu)

    def watch(weights: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        vae = VAE(config).to(device)
        vae.load_state_dict(weights)
        return measure_vae(vae, world, sprites, count=64)

    run = Run(options.run, "vae", is_first())
    run.log(latent_channels=config.latent_channels, width=config.width, batch=batch)
    schedule = Schedule(peak_rate=1e-3, decay=0.998)
    budget_s = parse_budget(options.budget)
    fit_budget(run, stage, schedule, budget_s, options.seed, watch, asdict(config))


def read_vae(run: Path, device: torch.device) -> VAE | None:
    """Read the averaged VAE of a run, frozen; None where there is none yet."""
    state = Run(run, "vae").load()
    if state is None:
        return None
    vae = VAE(VAEConfig(**state["config"])).to(device)
    vae.load_state_dict(state["average"])
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def train_judge(options: argparse.Namespace, device: torch.device) -> None:
    """Train the judge, on reconstructions of the run's VAE too; writes RUN/judge.pt."""
    world = world_of(options)
    sprites, vae = Sprites.read(world.nouns, device), read_vae(options.run, device)
    config = JudgeConfig.of(world)
    torch.manual_seed(options.seed)
    batch = options.batch or (64 if device.type == "cuda" else 8)
    stage = JudgeStage(Judge(config), world, sprites, batch, vae)

    def watch(weights: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        judge = Judge(config).to(device)
        judge.load_state_dict(weights)
        return measure_judge(judge.eval(), world, sprites, count=96)

    run = Run(options.run, "judge", is_first())
    schedule = Schedule(peak_rate=1.5e-3, decay=0.998, weight_decay=0.01)
    budget_s = parse_budget(options.budget)
    fit_budget(run, stage, schedule, budget_s, options.seed, watch, asdict(config))


def measure(options: argparse.Namespace, device: torch.device) -> None:
    """Print how good VAE and judge of a run are on held-out clips, as one JSON object."""
    world = world_of(options)
    sprites, vae = Sprites.read(world.nouns, device), read_vae(options.run, device)
    figures: dict[str, Mapping[str, float]] = {}
    if vae is not None:
        figures["vae"] = measure_vae(vae, world, sprites)
    state = Run(options.run, "judge").load()
    if state is not None:
        judge = Judge(JudgeConfig(**state["config"])).to(device).eval()
        judge.load_state_dict(state["average"])
        figures["judge"] = measure_judge(judge, world, sprites)
        if vae is not None:
            figures["judge after the VAE"] = measure_judge(judge, world, sprites, vae=vae)
    print(json.dumps(figures, indent=2))


STAGES: Mapping[str, Callable[[argparse.Namespace, torch.device], None]] = {
    "vae": train_vae,
    "judge": train_judge,
    "measure": measure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one stage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("run", type=Path, help="folder of logs and checkpoints")
    parser.add_argument("--budget", default="9m", help="time to train, as in 90s, 9m or 10h")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resolution", type=int, default=128, help="pixels of a frame's side")
    parser.add_argument("--nouns", type=int, help="the first nouns of the catalog alone")
    parser.add_argument("--latent-channels", type=int, default=VAE_CONFIG.latent_channels)
    parser.add_argument("--width", type=int, default=VAE_CONFIG.width)
    parser.add_argument("--batch", type=int, help="frames a step and process")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        STAGES[options.stage](options, choose_device(options.device))
    except HummingbirdError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
