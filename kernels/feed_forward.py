"""The gated feed-forward layer of the transformer blocks.

    GEGLU(x) = (x W + b) * gelu(x V + c)

Source: Shazeer 2020 (arXiv:2002.05202), equation 6; W and V are the two halves of one published
projection, the value's half first.

Lowerings: two products instead of one that is split (`benchmarks/kernels.py`: 1.6 to 2.3 times as
fast in OpenVINO's bfloat16, 1.05 times on ONNX Runtime's CPU); its gelu as one node for ONNX
Runtime's CPU and DirectML, see `kernels.fused_gelu`.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["GEGLU", "SplitGEGLU"]


class GEGLU(nn.Module):
    """Project (..., width) to (..., inner) by a value and a gate; `proj` is published whole."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)

    def for_export(self) -> "SplitGEGLU":
        """Return the form for graphs, sharing this one's memory."""
        return SplitGEGLU(self)


class SplitGEGLU(nn.Module):
    """The same layer as two products: no Split copies the widest activation of the network."""

    def __init__(self, whole: GEGLU) -> None:
        super().__init__()
        self.value, self.gate = (
            _linear(weight, bias)
            for weight, bias in zip(
                whole.proj.weight.chunk(2), whole.proj.bias.chunk(2), strict=True
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.value(x)
        return value * functional.gelu(self.gate(x))


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer
