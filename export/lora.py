"""Merge a LoRA adapter into the weights it was trained on.

    W' = W + (alpha / r) B A

Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1; the files are PEFT's, `adapter_config.json`
and `adapter_model.safetensors`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.weights import Weights
from hummingbird_edge.runtime.errors import CheckpointError
from hummingbird_edge.runtime.files import sha256_of

__all__ = ["Adapter", "MergedWeights"]

_PREFIX = "base_model.model."
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """A low-rank update of a U-Net's weights."""

    folder: Path
    tensors: Mapping[str, torch.Tensor]
    """`MODULE.lora_A.weight` (r, in) and `MODULE.lora_B.weight` (out, r)."""
    scale: float
    """alpha / r."""

    @classmethod
    def read(cls, folder: Path) -> "Adapter":
        """Read an adapter's folder; raises CheckpointError where it is missing or damaged."""
        for name in (_WEIGHTS, _CONFIG):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder} is no LoRA adapter, it has no {name}: train one with hb-distill lora"
                )
        try:
            metadata = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            rank, alpha = int(metadata["r"]), float(metadata["lora_alpha"])
            is_scaled_by_root = bool(metadata.get("use_rslora", False))
            scale = alpha / rank**0.5 if is_scaled_by_root else alpha / rank
        except (ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError) as error:
            raise CheckpointError(
                f"{folder / _CONFIG} does not state rank and alpha ({error}): train it again"
            ) from error
        if (
            metadata.get("use_dora")
            or metadata.get("rank_pattern")
            or metadata.get("alpha_pattern")
        ):
            raise CheckpointError(
                f"{folder} is a variant of LoRA that cannot be merged here: use plain LoRA"
            )
        tensors = read_checkpoint(folder / _WEIGHTS).tensors
        return cls(folder, {name.removeprefix(_PREFIX): tensors[name] for name in tensors}, scale)

    @torch.no_grad()
    def merge(self, unet: nn.Module) -> None:
        """Add the update to `unet` in place; raises CheckpointError where it does not fit."""
        modules = dict(unet.named_modules())
        names = {name.rsplit(".lora_", 1)[0] for name in self.tensors}
        for name in sorted(names):
            a, b = (self.tensors.get(f"{name}.lora_{side}.weight") for side in "AB")
            weight = getattr(modules.get(name), "weight", None)
            if a is None or b is None or weight is None:
                raise CheckpointError(
                    f"{self.folder} updates {name}, which this model does not have in that form: "
                    f"it was trained on another model"
                )
            if a.ndim != 2 or b.ndim != 2 or (len(b), a.shape[1]) != tuple(weight.shape):
                raise CheckpointError(
                    f"{self.folder} updates {name} of shape {len(b)} x {a.shape[-1]}, this model's "
                    f"is {' x '.join(map(str, weight.shape))}: it was trained on another model"
                )
            # A new tensor: the old one may be a view of the checkpoint's file.
            weight.data = weight.data + self.scale * (b.float() @ a.float())


@dataclass(frozen=True)
class MergedWeights:
    """Weights with an adapter merged into the U-Net."""

    base: Weights
    adapter: Adapter

    def load(self, name: str, config: ModelConfig) -> nn.Module:
        """Return a network with its weights, for `name` a key of `PREFIXES`."""
        module = self.base.load(name, config)
        if name == "unet":
            self.adapter.merge(module)
        return module

    def provenance(self) -> dict[str, Any]:
        """Return where both are from."""
        digest = sha256_of(self.adapter.folder / _WEIGHTS)
        return {**self.base.provenance(), "lora": self.adapter.folder.name, "lora_sha256": digest}
