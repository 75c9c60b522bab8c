"""The sinusoidal embedding of the timestep and of the frame rate.

    e(t) = [cos(t f_0) .. cos(t f_k), sin(t f_0) .. sin(t f_k)],  f_i = exp(-ln(10000) i / k)

Source: Ho et al. 2020 (arXiv:2006.11239), cosines first as the published U-Net has them.
"""

import math

import torch

__all__ = ["sinusoidal_embedding"]


def sinusoidal_embedding(t: torch.Tensor, width: int) -> torch.Tensor:
    """Embed `t` (B,) of any number type to (B, width) float32; `width` is even."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)
