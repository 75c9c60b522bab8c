"""Prune the teacher to the student's shape."""

import torch

from hummingbird_edge.distill.data.batches import Batches
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.train.diffusion import Diffusion
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import is_first
from hummingbird_edge.distill.train.prune import Probe, Pruning, importance, plan_pruning, prune
from hummingbird_edge.export.models.config import PRESETS, ModelConfig, UNetConfig
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["prune_model", "prune_teacher"]


def prune_teacher(sources: Sources, recipe: Recipe, preset: str | None = None) -> Pruning:
    """Prune the teacher to the recipe's shape or to a published one; writes RUN/pruned.

    The importance of each block is measured on the run's clips, or on noise where there are none.
    Raises RequestError for an unknown preset.
    """
    teacher = sources.read_teacher()
    if preset is None:
        config = recipe.student_config(teacher.config, recipe.student_unet())
    elif preset in PRESETS:
        config = PRESETS[preset]
    else:
        raise RequestError(f"no preset {preset!r}: known are {', '.join(PRESETS)}")
    has_clips = sources.clips or sources.clips_path.exists()
    clips = sources.read_clips() if has_clips else None
    model, pruning = prune_model(teacher, config.unet, config, clips)
    sources.write(model, "pruned")
    if is_first():
        pruning.write(sources.run / "prune.json")
    return pruning


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
