"""Where a network's weights come from: a checkpoint, or a seed."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from hummingbird_edge.export.checkpoint import Checkpoint, load_strict
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.tiny_decoder import CHANNELS, DOWNSAMPLING
from hummingbird_edge.export.stage import PREFIXES, network
from hummingbird_edge.runtime.errors import OutOfMemoryError, RequestError
from hummingbird_edge.runtime.placement.limits import machine_bytes
from hummingbird_edge.runtime.placement.memory import readable

__all__ = ["CheckpointWeights", "RandomWeights", "Weights", "WithTinyDecoder"]


class Weights(Protocol):
    """A source of networks."""

    def load(self, name: str, config: ModelConfig) -> nn.Module:
        """Return a network with its weights, for `name` a key of `PREFIXES`."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return where the weights are from, for the manifest."""
        ...


@dataclass(frozen=True)
class CheckpointWeights:
    """The tensors of a checkpoint, held strictly to the published names."""

    checkpoint: Checkpoint

    def load(self, name: str, config: ModelConfig) -> nn.Module:
        """Build on the meta device and assign views of the mapped file: nothing is copied."""
        module = _shaped(name, config)
        load_strict(module, self.checkpoint, PREFIXES[name], ignored=_unused(name, config))
        return module.float()

    def provenance(self) -> dict[str, Any]:
        """Return the checkpoint's name and digest."""
        return {"source": self.checkpoint.source, "source_sha256": self.checkpoint.sha256()}


def _shaped(name: str, config: ModelConfig) -> nn.Module:
    """Build a network on the meta device; raises OutOfMemoryError where no memory holds it."""
    with torch.device("meta"):
        module = network(name, config)
    need, have = 4 * sum(p.numel() for p in module.parameters()), machine_bytes()
    if need > have:
        raise OutOfMemoryError(
            f"the weights of {name} take {readable(need)} as float32, this machine has "
            f"{readable(have)} of memory: choose a smaller model"
        )
    return module


def _unused(name: str, config: ModelConfig) -> list[str]:
    """List published tensors that no graph uses: the text tower's last block and its head."""
    if name != "text_encoder":
        return []
    last_block = f"transformer.resblocks.{config.text.layers - 1}."
    return [last_block, "text_projection", "logit_scale", "attn_mask"]


@dataclass(frozen=True)
class WithTinyDecoder:
    """Weights with those of a tiny decoder, from a file of its own, beside them."""

    base: Weights
    checkpoint: Checkpoint

    def load(self, name: str, config: ModelConfig) -> nn.Module:
        """Return a network with its weights; raises RequestError where the latents are others."""
        if name != "tiny_decoder":
            return self.base.load(name, config)
        vae = config.vae
        if (vae.latent_channels, vae.downsampling) != (CHANNELS, DOWNSAMPLING):
            raise RequestError(
                f"the tiny decoder reads {CHANNELS} channels of 1/{DOWNSAMPLING} size, this model "
                f"makes {vae.latent_channels} of 1/{vae.downsampling}: leave it out"
            )
        module = _shaped(name, config)
        load_strict(module, self.checkpoint, "")
        return module.float()

    def provenance(self) -> dict[str, Any]:
        """Return where both are from."""
        tiny, digest = self.checkpoint.source, self.checkpoint.sha256()
        both = {"tiny_decoder": tiny, "tiny_decoder_sha256": digest}
        return {**self.base.provenance(), **both}


@dataclass(frozen=True)
class RandomWeights:
    """PyTorch's initial weights for a seed: full size without a download, for benchmarks."""

    seed: int = 0

    def load(self, name: str, config: ModelConfig) -> nn.Module:
        """Build a network with random weights."""
        _shaped(name, config)
        torch.manual_seed(self.seed)
        return network(name, config)

    def provenance(self) -> dict[str, Any]:
        """Return the seed."""
        return {"source": f"random weights, seed {self.seed}"}
