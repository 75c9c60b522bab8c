"""The gated feed-forward layer of the transformer blocks.

    GEGLU(x) = (x W + b) * gelu(x V + c)

Source: Shazeer 2020 (arXiv:2002.05202), equation 6; W and V are the two halves of one published
projection, the value's half first.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["GEGLU"]


class GEGLU(nn.Module):
    """Project (..., width) to (..., inner) through a value and a gate; `proj` is published whole.

    The halves are applied as two products, so that no Split copies the widest activation.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value_weight, gate_weight = self.proj.weight.chunk(2)
        value_bias, gate_bias = self.proj.bias.chunk(2)
        gate = functional.gelu(functional.linear(x, gate_weight, gate_bias))
        return functional.linear(x, value_weight, value_bias) * gate
