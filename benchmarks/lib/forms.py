"""Each kernel and the plain way to write the same layer, at the shapes of the full-size U-Net."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from hummingbird_edge.benchmarks.lib.repeat import Run
from hummingbird_edge.export.graph import export_graph
from hummingbird_edge.export.models.unet import CrossAttention
from hummingbird_edge.export.stage import Stage
from hummingbird_edge.kernels.attention import attention
from hummingbird_edge.kernels.feed_forward import GEGLU
from hummingbird_edge.kernels.group_norm import GroupNormSiLU
from hummingbird_edge.kernels.temporal_conv import TemporalConv
from hummingbird_edge.kernels.variant import FUSIONS, VARIANTS
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session

__all__ = ["LEVELS", "Case", "Level", "cases", "in_device", "in_pytorch"]

FRAMES, TOKENS, CONTEXT_WIDTH, HEAD_WIDTH = 16, 77, 1024, 64


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of the U-Net."""

    channels: int
    height: int
    width: int


LEVELS = (Level(320, 40, 64), Level(640, 20, 32), Level(1280, 10, 16))


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one level."""

    kernel: str
    off: nn.Module
    on: nn.Module
    inputs: tuple[torch.Tensor, ...]
    fusion: str | None = None
    """The fusion that is on or off with the kernel; all others are on in both."""


class Products(nn.Module):
    """Attention as two products with its scores in memory."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
        out: torch.Tensor = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return out


class Whole(nn.Module):
    """The attention kernel."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, self.heads)


class RepeatedContext(nn.Module):
    """Attention to the text whose keys and values are computed for every frame."""

    def __init__(self, layer: CrossAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x, context.expand(FRAMES, -1, -1).contiguous())
        return out


class SharedContext(RepeatedContext):
    """Attention to the text whose keys and values are computed once."""

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x.flatten(0, 1)[None], context).unflatten(1, x.shape[:2])[0]
        return out


class Chunked(nn.Module):
    """The gated feed-forward as one product that is split."""

    def __init__(self, layer: GEGLU) -> None:
        super().__init__()
        self.proj = layer.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: torch.Tensor = value * functional.gelu(gate)
        return out


class GeluApart(nn.Module):
    """Gelu as its five operations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (0.5 * (1.0 + torch.erf(x / 2**0.5)))


class GroupNormApart(nn.Module):
    """GroupNorm from its statistics, then SiLU."""

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


class Convolution3d(nn.Module):
    """The temporal convolution in three dimensions, as published."""

    def __init__(self, layer: TemporalConv) -> None:
        super().__init__()
        self.layer = nn.Conv3d(layer.in_channels, layer.out_channels, (3, 1, 1), padding=(1, 0, 0))
        self.layer.load_state_dict(layer.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def cases(level: Level) -> Iterator[Case]:
    """Yield every kernel at a level."""
    channels, pixels = level.channels, level.height * level.width
    heads = channels // HEAD_WIDTH
    torch.manual_seed(0)
    qkv = tuple(torch.randn(FRAMES, pixels, channels) for _ in range(3))
    yield Case("spatial attention", Products(heads), Whole(heads), qkv, "attentions")
    qkv = tuple(torch.randn(pixels, FRAMES, channels) for _ in range(3))
    yield Case("temporal attention", Products(heads), Whole(heads), qkv, "attentions")
    x = torch.randn(FRAMES, pixels, channels)
    cross = CrossAttention(channels, CONTEXT_WIDTH, heads)
    text = torch.randn(1, TOKENS, CONTEXT_WIDTH)
    yield Case("cross-attention", RepeatedContext(cross), SharedContext(cross), (x, text))
    gated = GEGLU(channels, 4 * channels)
    yield Case("gated feed-forward", Chunked(gated), nn.Sequential(gated), (x,))
    wide = torch.randn(FRAMES, pixels, 4 * channels)
    yield Case("Gelu", GeluApart(), nn.GELU(), (wide,), "gelus")
    norm = GroupNormSiLU(32, channels)
    frames = torch.randn(FRAMES, channels, level.height, level.width)
    yield Case("GroupNorm, SiLU", GroupNormApart(norm), norm, (frames,), "group norms")
    clip = torch.randn(1, channels, FRAMES, level.height, level.width)
    convolution = TemporalConv(channels, channels)
    yield Case(
        "temporal convolution", Convolution3d(convolution), nn.Sequential(convolution), (clip,)
    )


def in_pytorch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Run:
    """Return a run of a module in eager float32."""

    def run() -> NDArray[np.float32]:
        with torch.inference_mode():
            out: NDArray[np.float32] = module(*inputs).numpy()
        return out

    return run


def in_device(case: Case, kernel_on: bool, backend: Backend, folder: Path) -> Run:
    """Return a run of a graph on a device, with the fusions that `hb-export` makes for it."""
    graph = written(case.on if kernel_on else case.off, case.inputs)
    fusions = next((v.kernels for v in VARIANTS if backend.device.name in v.devices), ())
    for fusion in fusions:
        if kernel_on or fusion != case.fusion:
            FUSIONS[fusion](graph)
    path = folder / f"{'on' if kernel_on else 'off'}.onnx"
    onnx_ir.save(graph, path)
    session = open_session(path, backend)
    arrays = {name: x.numpy() for name, x in zip("abc", case.inputs, strict=False)}
    return lambda: session.run(arrays)


def written(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> onnx_ir.Model:
    """Export a module by the path that stages take, with its sizes fixed."""
    named = dict(zip("abc", inputs, strict=False))
    stage = Stage("kernel", "unet", {name: {} for name in named}, "out", {})
    return export_graph(_Positional(module), stage, named, 18)


class _Positional(nn.Module):
    """Name the inputs of any module a, b, c."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, a: torch.Tensor, b: torch.Tensor | None = None, c: torch.Tensor | None = None
    ) -> torch.Tensor:
        out: torch.Tensor = self.module(*(x for x in (a, b, c) if x is not None))
        return out
