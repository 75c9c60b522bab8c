"""Train the teacher: text encoder and U-Net of VideoCrafter2's shape."""

from collections.abc import Mapping

import torch

from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.stages.vae import read_vae
from hummingbird_edge.distill.stages.watch import watch
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import device, in_turn, is_first
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.teacher import TeacherStage
from hummingbird_edge.distill.train.training import fit, generator_of
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet

__all__ = ["train_teacher"]


def train_teacher(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Train text encoder and U-Net on encoded clips; writes RUN/teacher."""
    plan, clips = recipe.plans["teacher"], sources.read_clips()
    with in_turn():
        tokenizer = recipe.tokenizer(sources.run)
    config = recipe.teacher_config(tokenizer, clips.scaling_factor)
    vae = read_vae(sources.run, recipe.teacher.vae)
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
    sources.write(model(weights), "teacher")
