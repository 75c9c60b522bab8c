"""A model in PyTorch: three networks and a tokenizer, in a folder that hb-export reads too.

MODEL/model.safetensors     every weight under its published name
MODEL/config.json           the configuration that names and shapes do not contain
MODEL/tokenizer/            the vocabulary
"""

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.export.architecture import read_config
from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.export.stage import PREFIXES
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.export.weights import CheckpointWeights
from hummingbird_edge.runtime.errors import CheckpointError, OutputError
from hummingbird_edge.runtime.files import atomic_folder, write_json
from hummingbird_edge.runtime.prompts import read_prompts
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["PROMPTS", "Model"]

PROMPTS = 16
"""How many a trained model says that it can be asked for: a page of examples, and more than the
eight that int8 is calibrated on and compared by."""


@dataclass
class Model:
    """The networks of one checkpoint, with their weights."""

    config: ModelConfig
    text: TextEncoder
    unet: UNet
    vae: VAE
    tokenizer: Tokenizer
    prompts: Sequence[str] = ()
    """What it can be asked for, for the bundle that is built of it."""

    @classmethod
    def read(cls, path: Path) -> "Model":
        """Read a folder that `write` made, or any checkpoint that `hb-export build` takes.

        Weights stay views of the mapped file until they are written to. Raises CheckpointError.
        """
        checkpoint = read_checkpoint(path)
        file = (path if path.is_dir() else path.parent) / "config.json"
        if file.is_file() and '"unet"' in file.read_text(encoding="utf-8", errors="replace"):
            try:
                config = ModelConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))
            except ValueError as error:
                raise CheckpointError(f"{file} is no configuration: {error}") from error
        else:
            config = read_config(checkpoint)
        weights = CheckpointWeights(checkpoint)
        text, unet, vae = (weights.load(name, config) for name in ("text_encoder", "unet", "vae"))
        assert isinstance(text, TextEncoder)
        assert isinstance(unet, UNet)
        assert isinstance(vae, VAE)
        own = file.parent / "prompts.txt"
        prompts = read_prompts(own) if path.is_dir() and own.is_file() else ()
        return cls(config, text, unet, vae, _tokenizer(file.parent, config), prompts)

    def write(self, folder: Path) -> None:
        """Write the folder; raises OutputError.

        As in published checkpoints, the configuration counts one text layer more than there is: the
        last one, which is never used.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        networks = {"text_encoder": self.text, "unet": self.unet, "vae": self.vae}
        tensors = {
            PREFIXES[name] + key: tensor.detach().cpu().contiguous()
            for name, network in networks.items()
            for key, tensor in network.state_dict().items()
        }
        try:
            with atomic_folder(folder) as partial:
                save_file(tensors, partial / "model.safetensors")
                write_json(partial / "config.json", self.config.to_dict())
                shutil.copytree(self.tokenizer.folder, partial / "tokenizer")
                if self.prompts:
                    lines = "\n".join(self.prompts) + "\n"
                    (partial / "prompts.txt").write_text(lines, encoding="utf-8", newline="\n")
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"{folder} cannot be written ({error}): make room and run the command again"
            ) from error

    def with_unet(self, config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> "Model":
        """Return the model with another U-Net, built by `config` and given `weights`."""
        unet = UNet(config.unet).to(next(iter(weights.values())).device)
        unet.load_state_dict(weights)
        shared = replace(config, vae=self.config.vae, text=self.config.text)
        return replace(self, config=shared, unet=unet)

    def frozen(self, device: torch.device | str = "cpu") -> "Model":
        """Move every network to `device` and stop its gradients; returns itself."""
        for network in (self.text, self.unet, self.vae):
            freeze(network).to(device)
        self.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def ids(self, prompts: list[str]) -> torch.Tensor:
        """Return the token ids of `prompts`, (B, 77) int64."""
        return torch.from_numpy(np.stack([self.tokenizer(prompt).ids for prompt in prompts]))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents (B, 4, T, h, w) to RGB (B, T, 3, H, W) in about [-1, 1]."""
        z = latents.transpose(1, 2).flatten(0, 1) / self.config.vae.scaling_factor
        with mixed_precision(z.device):
            frames = torch.cat([self.vae.decode(part).float() for part in z.split(64)])
        return frames.unflatten(0, (len(latents), -1))


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """Return the tokenizer next to a checkpoint, else CLIP's own."""
    length = config.text.context_length
    if (folder / "tokenizer").is_dir():
        return Tokenizer(folder / "tokenizer", length)
    own = Path(tempfile.mkdtemp(prefix="hummingbird-tokenizer-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    Vocabulary.clip().write(own, length)
    return Tokenizer(own, length)


def freeze(network: nn.Module) -> nn.Module:
    """Put `network` in evaluation mode without gradients."""
    return network.eval().requires_grad_(False)
