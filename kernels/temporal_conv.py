"""The (3, 1, 1) convolution that mixes neighbouring frames.

    y[t] = W[0] x[t - 1] + W[1] x[t] + W[2] x[t + 1] + b        with x zero outside the clip

It touches no neighbouring pixel, so height and width fold into one axis and a two-dimensional
convolution with kernel (3, 1) does the work: every engine has a fast one, few have a fast
three-dimensional one. Source: Chen et al. 2024 (VideoCrafter2, arXiv:2401.09047), temporal blocks.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["TemporalConv"]


class TemporalConv(nn.Conv3d):
    """Convolve (B, C, T, H, W) over T; weight (C_out, C, 3, 1, 1) and bias as published."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[3:]
        y = functional.conv2d(x.flatten(3), self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return y.unflatten(3, (height, width))
