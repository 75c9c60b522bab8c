"""The (3, 1, 1) convolution that mixes neighbouring frames.

    y[t] = W[0] x[t - 1] + W[1] x[t] + W[2] x[t + 1] + b        with x zero outside the clip

It touches no neighbouring pixel, so height and width fold into one axis and a two-dimensional
convolution with kernel (3, 1) does the work: every engine has a fast one, few have a fast
three-dimensional one. Source: Chen et al. 2024 (VideoCrafter2, arXiv:2401.09047), temporal blocks.

Lowerings: the two-dimensional form everywhere. Against Conv3d (`benchmarks/kernels.py`) it is 1.0
to 1.4 times as fast in PyTorch, as fast in OpenVINO's float32, 0.8 to 1.2 times on ONNX Runtime's
CPU and 0.8 to 1.0 times in OpenVINO's bfloat16.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["FlatTemporalConv", "TemporalConv"]


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve (B, C, T, H, W) with `weight` (C_out, C, 3, 1)."""
    return functional.conv2d(x.flatten(3), weight, bias, padding=(1, 0)).unflatten(3, x.shape[3:])


class TemporalConv(nn.Conv3d):
    """Convolve (B, C, T, H, W) over T; weight (C_out, C, 3, 1, 1) and bias as published."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _convolve(x, self.weight.squeeze(-1), self.bias)

    def for_export(self) -> "FlatTemporalConv":
        """Return the form for graphs, sharing this one's memory."""
        return FlatTemporalConv(self)


class FlatTemporalConv(nn.Module):
    """The same convolution with its weight already flat: no Squeeze in the graph."""

    def __init__(self, published: TemporalConv) -> None:
        super().__init__()
        self.weight = nn.Parameter(published.weight.detach().squeeze(-1))
        self.bias = published.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _convolve(x, self.weight, self.bias)
