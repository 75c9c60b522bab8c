"""Encoded clips with their captions, the training data of most stages."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.world.shapes.captions import sample_training
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import World
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import CheckpointError, OutputError
from hummingbird_edge.runtime.files import atomic_path
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Clips", "encode"]

WORDINGS = 4
"""Captions drawn for each clip of the world."""


@dataclass(frozen=True)
class Clips:
    """Clips encoded once: encoding them at every step would take a fifth of the training time."""

    latents: torch.Tensor
    """(N, 4, T, h, w) bfloat16, scaled to unit variance."""
    captions: Sequence[Sequence[str]]
    """One or more captions of each clip."""
    scaling_factor: float
    """The factor by which the autoencoder's latents were multiplied."""

    def __post_init__(self) -> None:
        fits = len(self.latents) == len(self.captions) and all(self.captions)
        if not len(self.latents) or not fits:
            raise CheckpointError(
                f"{len(self.latents)} clips with {len(self.captions)} captions cannot be trained on"
            )

    @classmethod
    def drawn(
        cls, vae: VAE, world: World, count: int, seed: int, scaling_factor: float | None = None
    ) -> "Clips":
        """Draw `count` clips of the world with training captions and encode them."""
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        scenes = [world.draw(rng) for _ in range(count)]
        parts = (
            render(scenes[start : start + 16], world, generator) for start in range(0, count, 16)
        )
        wordings = [sample_training(scenes, rng) for _ in range(WORDINGS)]
        return cls.encoded(vae, parts, list(zip(*wordings, strict=True)), scaling_factor)

    @classmethod
    def encoded(
        cls,
        vae: VAE,
        batches: Iterable[torch.Tensor],
        captions: Sequence[Sequence[str]],
        scaling_factor: float | None = None,
    ) -> "Clips":
        """Encode batches (B, T, 3, H, W) in [0, 1]; without a factor, scale to unit variance."""
        latents = torch.cat([encode(vae, clips).bfloat16().cpu() for clips in batches])
        factor = scaling_factor or 1 / latents.float().std().item()
        return cls((latents.float() * factor).bfloat16(), captions, factor)

    @classmethod
    def read(cls, path: Path) -> "Clips":
        """Read what `write` wrote; raises CheckpointError."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                entries = json.loads(file.metadata()["clips"])
                latents, captions = file.get_tensor("latents"), entries["captions"]
                return cls(latents, captions, float(entries["scaling_factor"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} holds no encoded clips ({type(error).__name__}): "
                f"encode some with hb-distill clips"
            ) from error

    def write(self, path: Path) -> None:
        """Write one safetensors file, the captions in its header; raises OutputError."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        captions = [list(texts) for texts in self.captions]
        entries = {"captions": captions, "scaling_factor": self.scaling_factor}
        latents, metadata = self.latents.contiguous(), {"clips": json.dumps(entries)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                save_file({"latents": latents}, partial, metadata)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"{path} cannot be written ({error}): make room and run the command again"
            ) from error

    def check_fits(self, config: ModelConfig) -> None:
        """Raise CheckpointError where these latents are not those of a model's VAE."""
        channels, factor = config.unet.latent_channels, config.vae.scaling_factor
        if self.latents.ndim != 5 or self.latents.shape[1] != channels:
            raise CheckpointError(
                f"the clips have shape {tuple(self.latents.shape)}, the model's latents "
                f"have {channels} channels: encode them with this model"
            )
        if not math.isclose(self.scaling_factor, factor, rel_tol=1e-3):
            raise CheckpointError(
                f"the clips' latents are scaled by {self.scaling_factor:.5g}, the model's by "
                f"{factor:.5g}: encode them with this model"
            )

    def ids(self, tokenizer: Tokenizer) -> torch.Tensor:
        """Return the token ids of every caption, (N, W, 77) int64; short rows are repeated."""
        width = max(len(texts) for texts in self.captions)
        rows = [
            [tokenizer(texts[index % len(texts)]).ids.tolist() for index in range(width)]
            for texts in self.captions
        ]
        return torch.tensor(rows)


@torch.no_grad()
def encode(vae: VAE, clips: torch.Tensor) -> torch.Tensor:
    """Encode clips (B, T, 3, H, W) in [0, 1] to unscaled latents (B, 4, T, h, w) float32."""
    device = next(vae.parameters()).device
    frames = (clips.to(device) * 2 - 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with mixed_precision(device):
        mean = torch.cat([vae.encode(part).chunk(2, dim=1)[0] for part in frames.split(128)])
    return mean.float().unflatten(0, clips.shape[:2]).transpose(1, 2)
