"""The VAE: trained first, and its decoder again at the end."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.train.autoencoder import AutoencoderStage, DecoderStage, measure
from hummingbird_edge.distill.train.model import PROMPTS
from hummingbird_edge.distill.train.processes import device, is_first
from hummingbird_edge.distill.train.run import Run, load_finished
from hummingbird_edge.distill.train.training import fit
from hummingbird_edge.distill.world.shapes.captions import sample_training
from hummingbird_edge.export.models.config import VAEConfig
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["read_vae", "train_autoencoder", "train_decoder"]


def train_autoencoder(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Train the VAE on frames of the world; writes RUN/autoencoder.pt."""
    plan, config = recipe.plans["autoencoder"], recipe.teacher.vae
    torch.manual_seed(seed)
    stage = AutoencoderStage(config, recipe.world, plan.batch, device())

    def watched(weights: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        return measure(_vae(config, weights), recipe.world)

    fit(Run(sources.run, "autoencoder"), stage, plan, seed, watched)


def train_decoder(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Finetune the VAE's decoder for latents that a network made; writes RUN/student."""
    plan, student = recipe.plans["decoder"], sources.read_student("decoder")
    config = student.config.vae
    stage = DecoderStage(student.vae, config.scaling_factor, recipe.world, plan.batch, device())

    def watched(weights: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        return measure(_vae(config, weights), recipe.world)

    weights = fit(Run(sources.run, "decoder", is_first()), stage, plan, seed, watched)
    rng = random.Random(seed)
    prompts = sample_training([recipe.world.draw(rng) for _ in range(PROMPTS)], rng)
    sources.write(replace(student, vae=_vae(config, weights), prompts=prompts), "student")


def _vae(config: VAEConfig, weights: Mapping[str, torch.Tensor]) -> VAE:
    vae = VAE(config).to(device())
    vae.load_state_dict(weights)
    return vae


def read_vae(folder: Path, config: VAEConfig) -> VAE:
    """Read a run's finished VAE, frozen; raises RequestError where there is none yet."""
    run = Run(folder, "autoencoder")
    if (state := run.load()) is None:
        raise RequestError(
            f"{folder} has no autoencoder: run hb-distill autoencoder {folder} first"
        )
    vae = VAE(config)
    load_finished(run, state, vae)
    vae.eval().requires_grad_(False).to(device())
    return vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
