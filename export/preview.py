"""Fit the matrix of `runtime.preview` to a VAE."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hummingbird_edge.export.models.vae import VAE

__all__ = ["latent_to_rgb"]

_PICTURES = 48
_PATCHES, _SIDE = 4, 2  # patches along a side, latent pixels along a patch


@torch.no_grad()
def latent_to_rgb(vae: VAE) -> NDArray[np.float32]:
    """Return (C + 1, 3): the least-squares map from scaled latents to RGB in [-1, 1].

    Fitted on what the encoder makes of patches of plain colour: a decoder fed with latents that no
    picture has says little of those that pictures have.
    """
    config = vae.config
    generator = torch.Generator().manual_seed(0)
    colours = 2 * torch.rand(_PICTURES, 3, _PATCHES, _PATCHES, generator=generator) - 1
    colours[: _PICTURES // 2] = colours[: _PICTURES // 2].sign()  # corners of the cube
    rgb = colours.repeat_interleave(_SIDE, 2).repeat_interleave(_SIDE, 3)
    frames = functional.interpolate(rgb, scale_factor=float(config.downsampling))
    means = torch.cat([vae.encode(part).chunk(2, dim=1)[0] for part in frames.split(8)])
    z = (means * config.scaling_factor).permute(0, 2, 3, 1).reshape(-1, config.latent_channels)
    known = torch.cat([z, torch.ones(len(z), 1)], dim=1)
    targets = rgb.permute(0, 2, 3, 1).reshape(-1, 3)
    matrix: NDArray[np.float32] = np.linalg.lstsq(known.numpy(), targets.numpy(), rcond=None)[0]
    return matrix
