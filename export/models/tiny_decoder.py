"""TAESD's decoder: a small convolutional network instead of the VAE's, frame by frame.

    rgb = f(3 tanh(z / 3)),   z the latents of diffusion as they are, rgb in about [0, 1]

Parameters are named as published (`nn.Sequential` indices). Source: madebyollin/taesd, the decoder
for Stable Diffusion 1 and 2's latents.
"""

import torch
from torch import nn

from hummingbird_edge.kernels.upsample_conv import UpsampleConv

__all__ = ["CHANNELS", "DOWNSAMPLING", "WIDTH", "TinyDecoder", "TinyVideoDecoder"]

CHANNELS = 4
"""Latent channels."""
DOWNSAMPLING = 8
"""Pixels along one side of a latent pixel."""
WIDTH = 64
"""Channels between the convolutions."""


class Clamp(nn.Module):
    """Bend latents smoothly into (-3, 3)."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z / 3) * 3


class Block(nn.Module):
    """Three convolutions on a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv(x) + x).relu()


class TinyDecoder(nn.Sequential):
    """Latents (N, 4, h, w) to RGB (N, 3, 8 h, 8 w), as published: not clipped."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [Clamp(), nn.Conv2d(CHANNELS, WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            # The published upsampling, a layer without weights, is part of the kernel.
            layers += [Block(), Block(), Block(), nn.Identity()]
            layers += [UpsampleConv(WIDTH, WIDTH, bias=False)]
        super().__init__(*layers, Block(), nn.Conv2d(WIDTH, 3, 3, padding=1))


class TinyVideoDecoder(nn.Module):
    """The same as a graph of its own, which takes and returns what the VAE's decoder does.

    `latent_sample` are latents divided by the VAE's `scaling_factor`, which is undone here;
    `sample` is in about [-1, 1].
    """

    def __init__(self, decoder: TinyDecoder, scaling_factor: float) -> None:
        super().__init__()
        self.decoder, self.scaling_factor = decoder, scaling_factor

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(latent_sample * self.scaling_factor)
        return 2 * out - 1
