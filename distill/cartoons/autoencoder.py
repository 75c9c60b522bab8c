"""The cartoons' autoencoder: trained on frames, or on crops around the sprite while it is early.

Everything later is capped by it, and what matters are the sprites: their pixels weigh as much as
all of the ground's.
"""

import random
from collections.abc import Mapping

import torch
from torch import Tensor

from hummingbird_edge.distill.cartoons.budget import TimedStage
from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.world.cartoons.render import Rendered, render
from hummingbird_edge.distill.world.cartoons.shots import World
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.export.models.config import VAEConfig
from hummingbird_edge.export.models.vae import VAE

__all__ = ["VAE_CONFIG", "DecoderStage", "FrameStage", "measure_vae", "psnr", "sample_frames"]

VAE_CONFIG = VAEConfig(
    width=16, multipliers=(1, 2, 4, 8), res_blocks=1, groups=2, latent_channels=8
)
KL_WEIGHT = 1e-5
EDGE_WEIGHT = 1.0
CHANGE_WEIGHT = 2.0
LATENT_NOISE = 0.15
"""Most noise that the decoder learns to see through, in units of the scaled latents."""
SPRITE_SHARE = 0.6
"""Share of the loss that a sprite's pixels have, however few they are."""
CROP = 64
"""Side of a crop, in pixels: a quarter of a frame's cost, and mostly sprite."""
CROPPED_SHARE = 0.6
"""Share of the time in which crops are learned from; then whole frames, as they will be used."""


def sample_frames(
    world: World,
    sprites: Sprites,
    count: int,
    generator: torch.Generator,
    held_out: bool = False,
    neighbours: int = 1,
) -> Rendered:
    """Draw `count` clips' worth of `neighbours` consecutive frames, (count, neighbours, ...)."""
    rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
    shots = [world.draw(rng, held_out) for _ in range(count)]
    first = torch.randint(world.frames - neighbours + 1, (count, 1), generator=generator)
    return render(shots, world, sprites, generator, frames=first + torch.arange(neighbours))


def crop_around(
    frames: Tensor, alpha: Tensor, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a square of `side` around the sprite of each frame (N, C, H, W), a little off."""
    span = frames.shape[-1] - side
    mass = alpha.sum((1, 2, 3)).clamp(min=1e-3)
    pixels = torch.arange(frames.shape[-1], device=frames.device)
    x = (alpha.sum((1, 2)) * pixels).sum(1) / mass
    y = (alpha.sum((1, 3)) * pixels).sum(1) / mass
    off = (torch.rand(2, len(frames), generator=generator) - 0.5) * 0.6 * side
    corners = torch.stack((y, x)) - side / 2 + off.to(frames.device)
    inside = torch.arange(side, device=frames.device)
    tops, lefts = corners.round().long().clamp(0, span)[..., None] + inside
    which = torch.arange(len(frames), device=frames.device)[:, None, None]
    both = torch.cat((frames, alpha), 1).permute(0, 2, 3, 1)
    cut = both[which, tops[:, :, None], lefts[:, None, :]].permute(0, 3, 1, 2)
    return cut[:, :-1], cut[:, -1:]


def reconstruction_loss(decoded: Tensor, frames: Tensor, alpha: Tensor) -> Tensor:
    """Return the L1 + squared error of pixels and of edges, sprite and ground both seen.

    Source of the edges' part: Mathieu et al. 2016 (arXiv:1511.05440), the gradient difference loss.
    """
    share = alpha.mean((2, 3), keepdim=True)
    weight = SPRITE_SHARE * alpha / share.clamp(min=0.02)
    weight = weight + (1 - SPRITE_SHARE) * (1 - alpha) / (1 - share).clamp(min=0.02)
    error = decoded - frames
    pixels = (weight * (error.abs() + 2 * error.square())).mean()
    across = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    return pixels + EDGE_WEIGHT * (across + down)


class FrameStage(TimedStage[VAE]):
    """Reconstruct frames, with a little pull of the latents towards a unit Gaussian."""

    def __init__(self, config: VAEConfig, world: World, sprites: Sprites, batch: int) -> None:
        super().__init__()
        vae = VAE(config).to(sprites.device)
        self.trained = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.world, self.sprites, self.batch = world, sprites, batch

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the `reconstruction` error, the `divergence` and their `loss`."""
        # Crops cost a quarter: four times as many in a batch.
        is_cropped = self.share < CROPPED_SHARE and self.world.resolution > CROP
        count = self.batch * (self.world.resolution // CROP) ** 2 if is_cropped else self.batch
        drawn = sample_frames(self.world, self.sprites, count, generator)
        frames, alpha = drawn.frames.flatten(0, 1) * 2 - 1, drawn.alpha.flatten(0, 1)
        if is_cropped:
            frames, alpha = crop_around(frames, alpha, CROP, generator)
        frames = frames.contiguous(memory_format=torch.channels_last)
        reconstruction, divergence = self._reconstruct(frames, alpha)
        loss = reconstruction + KL_WEIGHT * divergence
        return {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}

    def _reconstruct(self, frames: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        with mixed_precision(frames.device):
            mean, log_variance = self.trained.encode(frames).float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-20, 10)
            noise = torch.randn_like(mean)
            decoded = self.trained.decode(mean + noise * (0.5 * log_variance).exp()).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return reconstruction_loss(decoded, frames, alpha), divergence


class DecoderStage(TimedStage[VAE]):
    """Teach the decoder alone that latents are made, not encoded: a little off, frame by frame.

    The encoder, and with it what latents mean, stays as it is. Here the change from a frame to the
    next is held to the true one: noise that differs from frame to frame must not be seen. Source:
    Blattmann et al. 2023 (arXiv:2304.08818, section 3.1.1).
    """

    def __init__(
        self, vae: VAE, scaling_factor: float, world: World, sprites: Sprites, batch: int
    ) -> None:
        super().__init__()
        self.trained = vae.requires_grad_(True)
        for encoding in (vae.encoder, vae.quant_conv):
            encoding.requires_grad_(False)
        self.world, self.sprites, self.batch = world, sprites, batch
        self.noise = LATENT_NOISE / scaling_factor

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the `reconstruction` error, that of the `change` and their `loss`."""
        pairs = max(1, self.batch // 2)
        drawn = sample_frames(self.world, self.sprites, pairs, generator, neighbours=2)
        frames, alpha = drawn.frames.flatten(0, 1) * 2 - 1, drawn.alpha.flatten(0, 1)
        frames = frames.contiguous(memory_format=torch.channels_last)
        with mixed_precision(frames.device):
            with torch.no_grad():
                mean = self.trained.encode(frames).float().chunk(2, dim=1)[0]
            degree = torch.rand(len(mean), 1, 1, 1, generator=generator).to(mean.device)
            noise = torch.randn_like(mean) * degree * self.noise
            decoded = self.trained.decode(mean + noise).float()
        reconstruction = reconstruction_loss(decoded, frames, alpha)
        change = ((decoded[1::2] - decoded[::2]) - (frames[1::2] - frames[::2])).abs().mean()
        loss = reconstruction + CHANGE_WEIGHT * change
        return {"loss": loss, "reconstruction": reconstruction, "change": change}


def psnr(error: Tensor) -> float:
    """Return the PSNR in dB of squared errors of pixels in [0, 1]."""
    return round(-10 * torch.log10(error.mean().clamp(min=1e-10)).item(), 2)


@torch.no_grad()
def measure_vae(
    vae: VAE, world: World, sprites: Sprites, count: int = 256, seed: int = 12345
) -> dict[str, float]:
    """Return the PSNR over held-out frames, over their sprites and grounds alone, in dB.

    A frame is coded by its mean, as for training what comes later.
    """
    device = sprites.device
    drawn = sample_frames(world, sprites, count, torch.Generator().manual_seed(seed), held_out=True)
    frames, alpha = drawn.frames.flatten(0, 1), drawn.alpha.flatten(0, 1)
    errors, means = [], []
    for part in frames.split(32):
        with mixed_precision(device):
            mean = vae.encode(part * 2 - 1).chunk(2, dim=1)[0]
            decoded = vae.decode(mean).float()
        means.append(mean.float())
        errors.append(((decoded / 2 + 0.5).clamp(0, 1) - part).square())
    error, mean = torch.cat(errors).mean(1, keepdim=True), torch.cat(means)
    return {
        "psnr_db": psnr(error),
        "sprite_db": psnr(error[alpha > 0.5]),
        "ground_db": psnr(error[alpha < 0.01]),
        "latent_std": round(mean.std().item(), 4),
    }
