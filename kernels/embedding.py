"""The embedding for residual blocks: timestep, guidance scale and frame rate.

    e(t) = [cos(t f_0) .. cos(t f_k), sin(t f_0) .. sin(t f_k)],  f_i = exp(-ln(10000) i / k)
    emb  = MLP_time(e(timestep) + W w) + MLP_fps(e(fps)),         MLP(x) = A silu(B x + b) + a

where w embeds the guidance scale (`runtime.sampler.guidance_embedding`: the same for all steps of a
video, so it is an input of the graph).

Sources: Ho et al. 2020 (arXiv:2006.11239), cosines first as the published U-Net has them; Chen et
al. 2024 (VideoCrafter2, arXiv:2401.09047) for the frame rate; Li et al. 2024 (T2V-Turbo,
arXiv:2405.18750) for the guidance scale, after Meng et al. 2022 (arXiv:2210.03142).

Lowering: the same on every engine, a few small nodes per step; the frequencies are one constant.
"""

import math

import torch
from torch import nn

__all__ = ["condition_embedding", "sinusoidal_embedding"]


def sinusoidal_embedding(t: torch.Tensor, width: int) -> torch.Tensor:
    """Embed `t` (B,) of any number type to (B, width) float32; `width` is even."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def condition_embedding(
    timestep: torch.Tensor,
    fps: torch.Tensor,
    guidance: torch.Tensor | None,
    time_mlp: nn.Sequential,
    fps_mlp: nn.Sequential,
) -> torch.Tensor:
    """Return emb (B, E) of `timestep` and `fps` (B,) and of W w, `guidance` (B, width).

    `guidance` is None for a model that is guided by a second pass. The layers are the model's and
    keep their published names; the result has their dtype.
    """
    first = time_mlp[0]
    assert isinstance(first, nn.Linear)
    width, dtype = first.in_features, first.weight.dtype
    time = sinusoidal_embedding(timestep, width).to(dtype)
    if guidance is not None:
        time = time + guidance
    return time_mlp(time) + fps_mlp(sinusoidal_embedding(fps, width).to(dtype))
