"""The layers of the kernels as they are usually written: what a kernel is compared with."""

import torch
from torch import nn
from torch.nn import functional

from hummingbird_edge.export.models.unet import CrossAttention
from hummingbird_edge.kernels.feed_forward import GEGLU
from hummingbird_edge.kernels.temporal_conv import TemporalConv
from hummingbird_edge.kernels.upsample_conv import UpsampleConv

__all__ = [
    "ChunkedGEGLU",
    "Conv3d",
    "ErfGelu",
    "GroupNormSiLU",
    "RepeatedContext",
    "ResizedConv",
    "UnfusedAttention",
]


class UnfusedAttention(nn.Module):
    """Attention as two products with the scores in memory; q, k, v are (B, N, C) float32."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
        out: torch.Tensor = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return out


class RepeatedContext(nn.Module):
    """Cross-attention that computes the keys and values of the text for every frame."""

    def __init__(self, layer: CrossAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x, context.expand(len(x), -1, -1).contiguous())
        return out


class ChunkedGEGLU(nn.Module):
    """The gated feed-forward as one product that is split."""

    def __init__(self, layer: GEGLU) -> None:
        super().__init__()
        self.proj = layer.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: torch.Tensor = value * functional.gelu(gate)
        return out


class ErfGelu(nn.Module):
    """Gelu as its five operations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (0.5 * (1.0 + torch.erf(x / 2**0.5)))


class GroupNormSiLU(nn.Module):
    """GroupNorm from its statistics, then SiLU; x is (B, C, H, W) float32."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = x.unflatten(1, (self.norm.num_groups, -1)).flatten(2)
        centred = grouped - grouped.mean(2, keepdim=True)
        scaled = centred * (centred.square().mean(2, keepdim=True) + self.norm.eps).rsqrt()
        channels = (-1, 1, 1)
        y = scaled.view(x.shape) * self.norm.weight.view(channels) + self.norm.bias.view(channels)
        out: torch.Tensor = y * y.sigmoid()
        return out


class Conv3d(nn.Module):
    """The temporal convolution in three dimensions, as published; x is (1, C, T, H, W) float32."""

    def __init__(self, layer: TemporalConv) -> None:
        super().__init__()
        self.layer = nn.Conv3d(layer.in_channels, layer.out_channels, (3, 1, 1), padding=(1, 0, 0))
        self.layer.load_state_dict(layer.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


class ResizedConv(nn.Module):
    """The upsampling convolution as published, on the large picture; x is (B, C, H, W) float32."""

    def __init__(self, layer: UpsampleConv) -> None:
        super().__init__()
        self.layer = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
        self.layer.load_state_dict(layer.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(functional.interpolate(x, scale_factor=2.0))
        return out
