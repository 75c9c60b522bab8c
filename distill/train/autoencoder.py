"""The autoencoder, trained on single frames of the shapes world.

It limits the quality of everything later, so its loss weighs the object as much as the background,
which the shapes world paints in one colour: without the weight, confusing a small star with a small
circle would cost a few per mille of the loss.
"""

import random
from collections.abc import Mapping

import torch

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import World
from hummingbird_edge.export.models.config import VAEConfig
from hummingbird_edge.export.models.vae import VAE

__all__ = ["AutoencoderStage", "DecoderStage", "measure"]

KL_WEIGHT = 1e-4
CHANGE_WEIGHT = 5.0
LATENT_NOISE = 0.15
"""Highest noise that the decoder learns to ignore, in units of the scaled latents."""


class AutoencoderStage(Stage[VAE]):
    """Reconstruct frames, with a little pull of the latents towards a unit Gaussian."""

    def __init__(self, config: VAEConfig, world: World, batch: int, device: torch.device) -> None:
        super().__init__()
        vae = VAE(config).to(device)
        self.trained = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.world, self.batch, self.device = world, batch, device

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Return the weighted `reconstruction`, the `divergence` and their `loss`."""
        frames = sample_frames(self.world, self.batch, generator).to(self.device)
        frames = frames.contiguous(memory_format=torch.channels_last)
        with mixed_precision(self.device):
            mean, log_variance = self.trained.encode(frames).float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-20, 10)
            noise = torch.randn(mean.shape, generator=generator).to(self.device)
            decoded = self.trained.decode(mean + noise * (0.5 * log_variance).exp()).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        reconstruction = reconstruction_loss(decoded, frames)
        loss = reconstruction + KL_WEIGHT * divergence
        return {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}


def sample_frames(
    world: World, count: int, generator: torch.Generator, neighbours: int = 1
) -> torch.Tensor:
    """Draw frames (N, 3, H, W) in [-1, 1] of random scenes, `neighbours` successive ones each."""
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    scenes = [world.draw(rng) for _ in range(count // neighbours)]
    step = 1 / max(1, world.frames - 1)
    last = 1 - step * (neighbours - 1)
    times = last * torch.rand(len(scenes), 1, generator=generator)
    times = times + step * torch.arange(neighbours)
    return render(scenes, world, generator, times=times).flatten(0, 1) * 2 - 1


def reconstruction_loss(decoded: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Return the L1 plus squared error, with the object's pixels weighted up to half of the whole.

    The object is what differs from the pixel at the top left: that holds for plain grounds.
    """
    ground = frames[:, :, :1, :1]
    is_object = ((frames - ground).abs().amax(1, keepdim=True) > 0.05).float()
    share = is_object.mean((2, 3), keepdim=True).clamp(0.02, 0.5)
    weight = is_object / share + (1 - is_object) / (1 - share)
    error = decoded - frames
    return (weight * (error.abs() + error.square())).mean()


@torch.no_grad()
def measure(vae: VAE, world: World) -> dict[str, float]:
    """Return the PSNR over fresh frames, in dB, and the latents' standard deviation."""
    frames = sample_frames(world, 256, torch.Generator().manual_seed(12345))
    frames = frames.to(next(vae.parameters()).device)
    mean = torch.cat([vae.encode(part).chunk(2, dim=1)[0] for part in frames.split(64)])
    decoded = torch.cat([vae.decode(part) for part in mean.split(64)]).clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (decoded - frames).square().mean())
    return {"psnr_db": round(psnr.item(), 2), "latent_std": round(mean.std().item(), 4)}


class DecoderStage(Stage[VAE]):
    """Train the decoder alone on latents with small errors, as the U-Net makes them.

    The encoder is frozen, and with it the meaning of latents: networks trained on them stay valid.
    Video models finetune their decoders for the same reason: less flicker
    (Blattmann et al. 2023, arXiv:2304.08818, section 3.1.1). Here the change from a frame to the
    next must match the true one: noise that differs between frames must not be visible.
    """

    def __init__(
        self, vae: VAE, scaling_factor: float, world: World, batch: int, device: torch.device
    ) -> None:
        super().__init__()
        self.trained = vae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        vae.requires_grad_(True)
        for encoding in (vae.encoder, vae.quant_conv):
            encoding.requires_grad_(False)
        self.world, self.batch, self.device = world, batch, device
        self.noise = LATENT_NOISE / scaling_factor

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Return the weighted `reconstruction` error, that of the `change` and their `loss`."""
        frames = sample_frames(self.world, self.batch, generator, 2).to(self.device)
        frames = frames.contiguous(memory_format=torch.channels_last)
        with mixed_precision(self.device):
            with torch.no_grad():
                mean = self.trained.encode(frames).float().chunk(2, dim=1)[0]
            loudness = self.noise * torch.rand(len(mean), 1, 1, 1, generator=generator)
            noise = torch.randn(mean.shape, generator=generator) * loudness
            decoded = self.trained.decode(mean + noise.to(self.device)).float()
        reconstruction = reconstruction_loss(decoded, frames)
        change = (_change(decoded) - _change(frames)).abs().mean()
        loss = reconstruction + CHANGE_WEIGHT * change
        return {"loss": loss, "reconstruction": reconstruction, "change": change}


def _change(frames: torch.Tensor) -> torch.Tensor:
    """Return the difference of the two frames of each pair, (N, 3, H, W) -> (N / 2, 3, H, W)."""
    return frames[1::2] - frames[::2]
