"""Build a bundle: graphs, tokenizer and manifest, made beside the target and renamed."""

import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hummingbird_edge.export.bundle_plan import BundlePlan
from hummingbird_edge.export.stage_process import write_stages
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.export.weights import Weights
from hummingbird_edge.quantize.bundle_folder import files_of, new_bundle, require_free
from hummingbird_edge.runtime.bundle.manifest import FORMAT, FORMAT_VERSION, MANIFEST, Manifest
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import write_json
from hummingbird_edge.runtime.tokenizer import WORDS, Tokenizer

__all__ = ["write_bundle"]

DIFFUSERS_CLASSES = {
    "text_encoder": ["diffusers", "OnnxRuntimeModel"],
    "unet": ["diffusers", "OnnxRuntimeModel"],
    "vae_decoder": ["diffusers", "OnnxRuntimeModel"],
    "vae_encoder": ["diffusers", "OnnxRuntimeModel"],
    "tiny_decoder": ["diffusers", "OnnxRuntimeModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
SCHEDULERS = {"lcm": "LCMScheduler", "ddim": "DDIMScheduler"}


def write_bundle(
    plan: BundlePlan, weights: Weights, out: Path, report: Callable[[str], None], force: bool
) -> None:
    """Build the bundle `out`; `report` hears one line a stage.

    Each network is loaded, exported and compared with PyTorch. Raises RequestError, CheckpointError
    or OutputError; `out` then is as it was.
    """
    if plan.tokenizer is None and plan.config.text.vocab_size != len(Vocabulary.clip().tokens):
        raise RequestError(
            f"the text encoder knows {plan.config.text.vocab_size} tokens, CLIP's vocabulary has "
            f"{len(Vocabulary.clip().tokens)}: give the model's own with --tokenizer"
        )
    require_free(out, force)
    with new_bundle(out) as folder:
        _write_tokenizer(plan, folder)
        _write_scheduler(plan, folder)
        stages: dict[str, Any] = {}
        for written in write_stages(plan, weights, folder, report):
            stages |= written.entries
        write_json(folder / "model_index.json", _model_index(plan))
        write_json(folder / MANIFEST, _manifest(plan, weights, stages, folder))
        # What the runtime would refuse must not take the target's place.
        Manifest.read(folder)


def _write_tokenizer(plan: BundlePlan, folder: Path) -> None:
    target = folder / "tokenizer"
    if plan.tokenizer is None:
        Vocabulary.clip().write(target, plan.config.text.context_length)
        return
    target.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        source = plan.tokenizer / name
        if not source.is_file():
            raise RequestError(f"{plan.tokenizer} has no {name}: give a CLIP tokenizer's folder")
        shutil.copyfile(source, target / name)
    if (plan.tokenizer / WORDS).is_file():
        shutil.copyfile(plan.tokenizer / WORDS, target / WORDS)
    known = Tokenizer(target, plan.config.text.context_length).vocabulary_size
    if known > plan.config.text.vocab_size:
        raise RequestError(
            f"the tokenizer in {plan.tokenizer} has {known} tokens, the text encoder knows "
            f"{plan.config.text.vocab_size}: give the tokenizer that the model was trained with"
        )


def _write_scheduler(plan: BundlePlan, folder: Path) -> None:
    sampler = plan.config.sampler()
    (folder / "scheduler").mkdir()
    metadata = {
        "_class_name": SCHEDULERS[sampler.method],
        "num_train_timesteps": sampler.train_steps,
        "beta_start": sampler.beta_start,
        "beta_end": sampler.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": sampler.prediction_type,
        "timestep_spacing": sampler.spacing,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    if sampler.method == "lcm":
        metadata["original_inference_steps"] = sampler.grid_steps
        metadata["timestep_scaling"] = sampler.timestep_scaling
    write_json(folder / "scheduler" / "scheduler_config.json", metadata)


def _model_index(plan: BundlePlan) -> dict[str, Any]:
    parts = {part: DIFFUSERS_CLASSES[part] for part in [*plan.stages, "tokenizer"]}
    scheduler = ["diffusers", SCHEDULERS[plan.config.method]]
    return {"_class_name": "TextToVideo", **parts, "scheduler": scheduler}


def _manifest(
    plan: BundlePlan, weights: Weights, stages: dict[str, Any], folder: Path
) -> dict[str, Any]:
    config = plan.config
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": plan.name,
        "model": {
            "latent_channels": config.vae.latent_channels,
            "vae_downsampling": config.vae.downsampling,
            "unet_downsampling": config.unet.downsampling,
            "scaling_factor": config.vae.scaling_factor,
            "context_length": config.text.context_length,
            "context_width": config.text.width,
            "guidance_width": config.unet.guidance_width,
            **({"temporal_noise": config.temporal_noise} if config.temporal_noise else {}),
        },
        "sampler": asdict(config.sampler()),
        "defaults": asdict(config.defaults),
        "stages": stages,
        "files": files_of(folder),
        "provenance": {
            **weights.provenance(),
            "config": config.to_dict(),
            "hummingbird_edge": importlib.metadata.version("hummingbird-edge"),
            "torch": torch.__version__,
        },
        "licence": plan.licence,
        **({"prompts": list(plan.prompts)} if plan.prompts else {}),
    }
