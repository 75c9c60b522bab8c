"""Merge a LoRA adapter into the weights it was trained on.

    W' = W + (alpha / r) B A

Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1; the files are PEFT's, `adapter_config.json`
and `adapter_model.safetensors`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct, ValidationError, convert
from torch import nn

from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.weights import Weights
from hummingbird_edge.runtime.errors import CheckpointError
from hummingbird_edge.runtime.files import read_json, sha256_of

__all__ = ["Adapter", "MergedWeights"]

_PREFIX = "base_model.model."
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


class _Metadata(Struct, frozen=True):
    """What is read of `adapter_config.json`."""

    r: Annotated[int, Meta(ge=1, le=1 << 16)]
    lora_alpha: Annotated[float, Meta(gt=-1e6, lt=1e6)]
    use_rslora: bool | None = None
    use_dora: bool | None = None
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, Any] | None = None

    @property
    def scale(self) -> float:
        """alpha / r, or over its root as Kalajdzievski 2023 (arXiv:2312.03732) has it."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


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
            metadata = convert(read_json(folder / _CONFIG), _Metadata)
        except (OSError, ValueError, ValidationError) as error:
            raise CheckpointError(
                f"{folder / _CONFIG} does not state rank and alpha ({error}): train it again"
            ) from error
        if metadata.use_dora or metadata.rank_pattern or metadata.alpha_pattern:
            raise CheckpointError(
                f"{folder} is a variant of LoRA that cannot be merged here: use plain LoRA"
            )
        tensors = read_checkpoint(folder / _WEIGHTS).tensors
        return cls(
            folder, {name.removeprefix(_PREFIX): tensors[name] for name in tensors}, metadata.scale
        )

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
            if not (
                a.ndim == b.ndim == 2
                and b.shape[1] == a.shape[0]
                and (b.shape[0], a.shape[1]) == tuple(weight.shape)
                and a.is_floating_point()
                and b.is_floating_point()
            ):
                raise CheckpointError(
                    f"{self.folder} updates {name} by {b.dtype} {tuple(b.shape)} times {a.dtype} "
                    f"{tuple(a.shape)}, this model's weight is {tuple(weight.shape)}: "
                    f"it was trained on another model"
                )
            # A new tensor: the old one may be a view of the checkpoint's file.
            weight.data = weight.data + self.scale * (b.float() @ a.float())
            if not torch.isfinite(weight.data).all():
                raise CheckpointError(
                    f"{self.folder} makes numbers of {name} that are not finite: train it again"
                )


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
