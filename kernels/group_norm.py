"""GroupNorm followed by SiLU, before nearly every convolution of the U-Net.

    y = (x - mean) / sqrt(var + eps) * g + b        mean and var over a group of channels
    silu(y) = y sigmoid(y)                          and all positions of a sample

Sources: Wu and He 2018 (arXiv:1803.08494), equation 1; Elfwing et al. 2017 (arXiv:1702.03118).

Lowerings: the exporter writes Reshape, InstanceNormalization, Reshape, Mul, Add, Sigmoid, Mul, all
of which every engine has; ONNX Runtime's CPU joins the last two by itself. DirectML has one node
for all seven, see `kernels.fused_group_norm`.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["GroupNormSiLU"]


class GroupNormSiLU(nn.GroupNorm):
    """Normalize (N, C, ...) by groups of channels, then SiLU; parameters as GroupNorm's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.silu(super().forward(x))
