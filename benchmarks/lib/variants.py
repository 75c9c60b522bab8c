"""Variants of each kernel's layer, baseline and fused, at the shapes of the full-size U-Net.

In int8 both are quantized as `hb-export quantize` does, with the ranges of the very inputs that are
timed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir
import torch
from torch import nn

from hummingbird_edge.benchmarks.lib import baselines
from hummingbird_edge.benchmarks.lib.recording import Inputs
from hummingbird_edge.benchmarks.lib.timing import Run
from hummingbird_edge.export.graph import export_graph
from hummingbird_edge.export.models.unet import CrossAttention
from hummingbird_edge.export.stage import Stage
from hummingbird_edge.kernels.attention import attention
from hummingbird_edge.kernels.feed_forward import GEGLU
from hummingbird_edge.kernels.group_norm import GroupNormSiLU
from hummingbird_edge.kernels.temporal_conv import TemporalConv
from hummingbird_edge.kernels.upsample_conv import UpsampleConv
from hummingbird_edge.kernels.variant import FUSIONS, VARIANTS
from hummingbird_edge.quantize.layers import find_layers
from hummingbird_edge.quantize.ranges import Ranges, observe
from hummingbird_edge.quantize.static import quantize
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.engines.loading import open_session

__all__ = [
    "LEVELS",
    "KernelVariants",
    "Level",
    "fusions_for",
    "graph_run",
    "kernel_variants",
    "kernels_of",
]

TOKENS, CONTEXT_WIDTH, HEAD_WIDTH = 77, 1024, 64
_OPSET = 18
_NAMES = ("a", "b", "c")
"""Of a layer's inputs."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of the U-Net."""

    channels: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Of a frame."""
        return self.height * self.width


LEVELS = (Level(320, 40, 64), Level(640, 20, 32), Level(1280, 10, 16))


@dataclass(frozen=True, slots=True)
class KernelVariants:
    """One layer at one level, written in two variants that compute the same."""

    baseline: nn.Module
    """The layer as it is usually written."""
    fused: nn.Module
    """The layer with the kernel."""
    inputs: Inputs
    """Of both, named a, b, c."""
    fusion: str | None = None
    """The graph fusion that only `fused` gets; all others are applied to both."""

    @property
    def has_products(self) -> bool:
        """Whether both forms multiply by weights that int8 is for: not those of Conv3d."""
        forms = (self.baseline, self.fused)
        return all(max((w.dim() for w in form.parameters()), default=0) in (2, 4) for form in forms)

    @classmethod
    def of(
        cls,
        baseline: nn.Module,
        fused: nn.Module,
        *inputs: torch.Tensor,
        fusion: str | None = None,
    ) -> "KernelVariants":
        """Name the inputs of two modules that take them by position."""
        arrays = {name: x.numpy() for name, x in zip(_NAMES, inputs, strict=False)}
        return cls(_Named(baseline), _Named(fused), arrays, fusion)


class SDPA(nn.Module):
    """The attention kernel."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, self.heads)


class SharedContext(nn.Module):
    """Cross-attention that computes the keys and values of the text once for all frames."""

    def __init__(self, layer: CrossAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x.flatten(0, 1)[None], context).unflatten(1, x.shape[:2])[0]
        return out


def _spatial_attention(level: Level, frames: int) -> KernelVariants:
    return _attention(level, frames, level.pixels)


def _temporal_attention(level: Level, frames: int) -> KernelVariants:
    return _attention(level, level.pixels, frames)


def _attention(level: Level, batch: int, tokens: int) -> KernelVariants:
    heads = level.channels // HEAD_WIDTH
    qkv = [torch.randn(batch, tokens, level.channels) for _ in range(3)]
    unfused = baselines.UnfusedAttention(heads)
    return KernelVariants.of(unfused, SDPA(heads), *qkv, fusion="attentions")


def _cross_attention(level: Level, frames: int) -> KernelVariants:
    cross = CrossAttention(level.channels, CONTEXT_WIDTH, level.channels // HEAD_WIDTH)
    x = torch.randn(frames, level.pixels, level.channels)
    text = torch.randn(1, TOKENS, CONTEXT_WIDTH)
    return KernelVariants.of(baselines.RepeatedContext(cross), SharedContext(cross), x, text)


def _gated_feed_forward(level: Level, frames: int) -> KernelVariants:
    gated = GEGLU(level.channels, 4 * level.channels)
    x = torch.randn(frames, level.pixels, level.channels)
    return KernelVariants.of(baselines.ChunkedGEGLU(gated), gated, x)


def _gelu(level: Level, frames: int) -> KernelVariants:
    x = torch.randn(frames, level.pixels, 4 * level.channels)
    return KernelVariants.of(baselines.ErfGelu(), nn.GELU(), x, fusion="gelus")


def _group_norm(level: Level, frames: int) -> KernelVariants:
    norm, x = GroupNormSiLU(32, level.channels), _pictures(level, frames)
    return KernelVariants.of(baselines.GroupNormSiLU(norm), norm, x, fusion="group norms")


def _temporal_convolution(level: Level, frames: int) -> KernelVariants:
    convolution = TemporalConv(level.channels, level.channels)
    clip = torch.randn(1, level.channels, frames, level.height, level.width)
    return KernelVariants.of(baselines.Conv3d(convolution), convolution, clip)


def _upsampling_convolution(level: Level, frames: int) -> KernelVariants:
    doubling = UpsampleConv(level.channels, level.channels)
    return KernelVariants.of(baselines.ResizedConv(doubling), doubling, _pictures(level, frames))


def _pictures(level: Level, frames: int) -> torch.Tensor:
    return torch.randn(frames, level.channels, level.height, level.width)


_UPSAMPLING = "upsampling convolution"
_BUILDERS: Mapping[str, Callable[[Level, int], KernelVariants]] = {
    "spatial attention": _spatial_attention,
    "temporal attention": _temporal_attention,
    "cross-attention": _cross_attention,
    "gated feed-forward": _gated_feed_forward,
    "Gelu": _gelu,
    "GroupNorm, SiLU": _group_norm,
    "temporal convolution": _temporal_convolution,
    _UPSAMPLING: _upsampling_convolution,
}


def kernels_of(level: Level) -> list[str]:
    """Return the names of the kernels at a level; the finest is not upsampled."""
    return [name for name in _BUILDERS if name != _UPSAMPLING or level is not LEVELS[0]]


def kernel_variants(kernel: str, level: Level, frames: int) -> KernelVariants:
    """Return the variants of a kernel at a level, for a clip of this many frames."""
    torch.manual_seed(0)
    return _BUILDERS[kernel](level, frames)


def graph_run(variants: KernelVariants, is_fused: bool, backend: Backend, folder: Path) -> Run:
    """Return a run of a variant's graph on a backend, with the fusions of `hb-export` for it.

    `folder` is of these variants alone: graphs are exported into it once, for all backends.
    """
    exported = folder / f"{'fused' if is_fused else 'baseline'}-exported.onnx"
    if not exported.exists():
        module = variants.fused if is_fused else variants.baseline
        onnx_ir.save(_export(module, variants.inputs), exported)
    graph = onnx_ir.load(exported)
    if backend.precision is Precision.INT8:
        quantize(graph, _ranges(graph, variants.inputs, folder / "observed.onnx"))
    for fusion in fusions_for(backend.device):
        if is_fused or fusion != variants.fusion:
            FUSIONS[fusion].fuse(graph)
    path = folder / f"{'fused' if is_fused else 'baseline'}.onnx"
    onnx_ir.save(graph, path)
    session = open_session(path, backend)
    return lambda: session.run(variants.inputs)


def fusions_for(device: Device) -> tuple[str, ...]:
    """Return the fusions of the graph that `hb-export` makes for a device, `dml:1` as for `dml`."""
    return next((v.kernels for v in VARIANTS if device.family in v.devices), ())


def _export(module: nn.Module, inputs: Inputs) -> onnx_ir.Model:
    """Export a module as stages are exported, with fixed sizes."""
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    stage = Stage("kernel", "unet", {name: {} for name in tensors}, "out", {})
    return export_graph(module, stage, tensors, _OPSET)


def _ranges(graph: onnx_ir.Model, inputs: Inputs, path: Path) -> Ranges:
    """Return the ranges of the layers' activations; `path` is written."""
    onnx_ir.save(graph, path)
    observed = onnx_ir.load(path)
    names = observe(observed, find_layers(observed))
    onnx_ir.save(observed, path)
    _, *extremes = open_session(path, Backend.parse("cpu")).run_all(inputs)
    ranges = Ranges()
    ranges.add(names, extremes)
    return ranges


class _Named(nn.Module):
    """Name the inputs of any module a, b, c."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, a: torch.Tensor, b: torch.Tensor | None = None, c: torch.Tensor | None = None
    ) -> torch.Tensor:
        out: torch.Tensor = self.module(*(x for x in (a, b, c) if x is not None))
        return out
