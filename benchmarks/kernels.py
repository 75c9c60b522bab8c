"""What each kernel brings, on and off, in each engine, at the shapes of the full-size U-Net.

    python benchmarks/kernels.py                 three levels of 512 x 320 and 16 frames, 5 minutes
    python benchmarks/kernels.py --quick         the coarsest level alone

"Off" is the plain way to write a layer, "on" the kernel: its PyTorch form in PyTorch, its graph as
`hb-export` writes it for the device elsewhere. All weights are random. Off and on run in turns, so
that a busy machine slows both; a gain is the median of their ratios. Prints a Markdown table;
`--output` writes JSON. The embedding is left out: it takes microseconds of a step.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx_ir
import torch
import typer
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from hummingbird_edge.benchmarks.engines import working_devices
from hummingbird_edge.export.graph import export_graph
from hummingbird_edge.export.models.unet import CrossAttention
from hummingbird_edge.export.stage import Stage
from hummingbird_edge.export.variant import FUSIONS, VARIANTS
from hummingbird_edge.kernels.attention import attention
from hummingbird_edge.kernels.feed_forward import GEGLU
from hummingbird_edge.kernels.group_norm import GroupNormSiLU
from hummingbird_edge.kernels.temporal_conv import TemporalConv
from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.placement import Option
from hummingbird_edge.runtime.session import open_session
from hummingbird_edge.runtime.trial import snr_db

PYTORCH = "pytorch"
FRAMES, TOKENS, CONTEXT_WIDTH, HEAD_WIDTH = 16, 77, 1024, 64
Array = NDArray[np.float32]
Run = Callable[[], Array]


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


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel at one level in one engine."""

    kernel: str
    channels: int
    engine: str
    precision: str
    off_s: tuple[float, ...]
    on_s: tuple[float, ...]
    agreement_db: float
    """Of the kernel in this engine with the plain form in PyTorch."""
    failure: str = ""

    @property
    def gain(self) -> float:
        """How many times faster the kernel is; above 1 it gains."""
        return statistics.median(a / b for a, b in zip(self.off_s, self.on_s, strict=True))


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
    yield Case("gelu", GeluApart(), nn.GELU(), (wide,), "gelus")
    norm = GroupNormSiLU(32, channels)
    frames = torch.randn(FRAMES, channels, level.height, level.width)
    yield Case("group norm, SiLU", GroupNormApart(norm), norm, (frames,), "group norms")
    clip = torch.randn(1, channels, FRAMES, level.height, level.width)
    convolution = TemporalConv(channels, channels)
    yield Case(
        "temporal convolution", Convolution3d(convolution), nn.Sequential(convolution), (clip,)
    )


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


def in_turns(off: Run, on: Run, runs: int) -> tuple[tuple[float, ...], tuple[float, ...], Array]:
    """Time both in turns after one run of each; returns the kernel's output too."""
    off()
    output = on()
    off_s, on_s = list[float](), list[float]()
    for _ in range(runs):
        for run, seconds in ((off, off_s), (on, on_s)):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    return tuple(off_s), tuple(on_s), output


def in_pytorch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Run:
    """Return a run of a module in eager float32."""

    def run() -> Array:
        with torch.inference_mode():
            out: Array = module(*inputs).numpy()
        return out

    return run


def in_device(case: Case, kernel_on: bool, option: Option, folder: Path) -> Run:
    """Return a run of a graph on a device, with the fusions that `hb-export` makes for it."""
    graph = written(case.on if kernel_on else case.off, case.inputs)
    fusions = next((v.kernels for v in VARIANTS if option.device.name in v.devices), ())
    for fusion in fusions:
        if kernel_on or fusion != case.fusion:
            FUSIONS[fusion](graph)
    path = folder / f"{'on' if kernel_on else 'off'}.onnx"
    onnx_ir.save(graph, path)
    session = open_session(path, option)
    arrays = {name: x.numpy() for name, x in zip("abc", case.inputs, strict=False)}
    return lambda: session.run(arrays)


def measure(case: Case, channels: int, ways: list[tuple[str, str]], runs: int) -> Iterator[Row]:
    """Yield a row for each engine; one that fails is a row with its reason."""
    truth = in_pytorch(case.off, case.inputs)()
    with tempfile.TemporaryDirectory() as folder:
        for engine, precision in ways:
            try:
                if engine == PYTORCH:
                    off, on = (in_pytorch(module, case.inputs) for module in (case.off, case.on))
                else:
                    option = Option(Device.parse(engine), precision)
                    off, on = (
                        in_device(case, kernel_on, option, Path(folder))
                        for kernel_on in (False, True)
                    )
                off_s, on_s, output = in_turns(off, on, runs)
            except DeviceError as error:
                nan = (float("nan"),)
                yield Row(case.kernel, channels, engine, precision, nan, nan, nan[0], str(error))
            else:
                agreement = round(snr_db(output, truth), 1)
                yield Row(case.kernel, channels, engine, precision, off_s, on_s, agreement)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| kernel | channels | engine | off | on | spread | gain | agrees to |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        engine = f"{row.engine} {row.precision}"
        if row.failure:
            lines.append(f"| {row.kernel} | {row.channels} | {engine} | {row.failure} | | | | |")
            continue
        off, on = (f"{statistics.median(s) * 1e3:.1f} ms" for s in (row.off_s, row.on_s))
        spread = f"{(max(row.on_s) - min(row.on_s)) * 1e3:.1f} ms"
        facts = f"{off} | {on} | {spread} | {row.gain:.2f}x | {row.agreement_db:.0f} dB"
        lines.append(f"| {row.kernel} | {row.channels} | {engine} | {facts} |")
    return "\n".join(lines)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="The coarsest level alone.")] = False,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each form.")] = 5,
    output: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Time every kernel, on and off, in every engine that works here."""
    devices = [Device.parse(name) for name in working_devices()]
    ways = [(PYTORCH, "fp32"), *((d.name, p) for d in devices for p in d.precisions())]
    rows: list[Row] = []
    for level in LEVELS[-1:] if quick else LEVELS:
        for case in cases(level):
            for row in measure(case, level.channels, ways, runs):
                rows.append(row)
                typer.echo(f"{row.kernel} {row.channels} {row.engine} {row.precision}", err=True)
    typer.echo(table(rows))
    if output is not None:
        facts = {
            "machine": {"cpu": platform.processor(), "cores": os.cpu_count()},
            "packages": {n: version(n) for n in ("torch", "onnxruntime", "openvino", "numpy")},
            "rows": [{**asdict(row), "gain": round(row.gain, 3)} for row in rows],
        }
        output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
