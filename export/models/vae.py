"""Stable Diffusion's KL autoencoder, applied to each frame.

Parameters are named as published. Source: Rombach et al. 2022 (arXiv:2112.10752), `kl-f8`.
"""

import torch
from torch import nn
from torch.nn import functional

from hummingbird_edge.export.models.config import VAEConfig
from hummingbird_edge.kernels.attention import attention

__all__ = ["VAE", "AttnBlock", "VAEDecoder", "VAEEncoder"]


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normalized convolutions on a residual branch."""

    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)
        self.has_shortcut = channels != out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if self.has_shortcut else x) + h


class AttnBlock(nn.Module):
    """Single-head attention among the pixels of a frame; its projections are 1 x 1 convolutions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = attention(q, k, v, heads=1).transpose(1, 2).unflatten(2, (height, width))
        out: torch.Tensor = x + self.proj_out(mixed)
        return out


class Downsample(nn.Module):
    """Halve height and width, padding at the right and at the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(functional.interpolate(x, scale_factor=2.0))
        return out


class Level(nn.Module):
    """The residual blocks of one resolution and its way to the next."""

    def __init__(self, blocks: list[ResnetBlock]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    """The coarsest resolution's blocks, with the only attention."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """RGB frames (N, 3, H, W) to features (N, 2 * latent_channels, h, w)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.width
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for index, multiplier in enumerate(config.multipliers):
            blocks = []
            for _ in range(config.res_blocks):
                blocks.append(ResnetBlock(channels, config.width * multiplier, config.groups))
                channels = config.width * multiplier
            level = Level(blocks)
            if index < len(config.multipliers) - 1:
                level.downsample = Downsample(channels)
            self.down.append(level)
        self.mid = Middle(channels, config.groups)
        self.norm_out = _norm(channels, config.groups)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        out: torch.Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """Features (N, latent_channels, h, w) to RGB frames (N, 3, H, W)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.width * config.multipliers[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.mid = Middle(channels, config.groups)
        levels: list[Level] = []
        for index in reversed(range(len(config.multipliers))):
            blocks = []
            for _ in range(config.res_blocks + 1):
                out_channels = config.width * config.multipliers[index]
                blocks.append(ResnetBlock(channels, out_channels, config.groups))
                channels = out_channels
            level = Level(blocks)
            if index > 0:
                level.upsample = Upsample(channels)
            levels.append(level)
        # Published finest first, run coarsest first.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _norm(channels, config.groups)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out: torch.Tensor = self.conv_out(functional.silu(self.norm_out(h)))
        return out


class VAE(nn.Module):
    """Encoder and decoder under their published names."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        doubled = 2 * config.latent_channels
        self.quant_conv = nn.Conv2d(doubled, doubled, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map RGB (N, 3, H, W) in [-1, 1] to mean and log-variance (N, 2 * C, h, w), unscaled."""
        out: torch.Tensor = self.quant_conv(self.encoder(frames))
        return out

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map unscaled latents (N, C, h, w) to RGB (N, 3, H, W), about [-1, 1], not clipped."""
        out: torch.Tensor = self.decoder(self.post_quant_conv(latents))
        return out


class VAEEncoder(nn.Module):
    """The encoding half as a graph of its own: `sample` -> `latent_parameters`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.quant_conv(self.encoder(sample))
        return out


class VAEDecoder(nn.Module):
    """The decoding half as a graph of its own: `latent_sample` -> `sample`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(self.post_quant_conv(latent_sample))
        return out
