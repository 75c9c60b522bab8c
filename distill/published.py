"""A finished run as a checkpoint under the published tensor names."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.export.stage import PREFIXES

__all__ = ["write_published"]


def write_published(run: Path, recipe: Recipe) -> None:
    """Write `run/model.safetensors` and `run/config.json` from the run's averaged weights.

    The text encoder has no unused last block here: the configuration says one layer more than
    there is, as the published one does.
    """
    from safetensors.torch import save_file

    state = torch.load(run / "generator.pt", weights_only=True)
    vae = torch.load(run / "autoencoder.pt", weights_only=True)["average"]
    tensors = {PREFIXES["vae"] + name: tensor for name, tensor in vae.items()}
    for name, tensor in state["average"].items():
        network, rest = name.split(".", 1)
        if network == "reader":
            continue
        prefix = PREFIXES["text_encoder" if network == "text" else "unet"]
        tensors[prefix + rest] = tensor
    partial = run / "model.partial"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(run / "model.safetensors")
    config = recipe.full_config()
    config = replace(config, vae=replace(config.vae, scaling_factor=state["scaling_factor"]))
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    (run / "config.json").write_text(text, encoding="utf-8", newline="\n")
