"""Prune a teacher's U-Net to a student's shape: fewer residual blocks a level, no middle block.

Each block of the student is one of the teacher's, weights and all. Where several would fit (same
level, same channels in and out), those stay whose absence would change the teacher's output most.
A block counts with the transformers behind it. Source: Hummingbird (arXiv:2503.18559), section 3;
what a block is worth is measured as in BK-SDM (Kim et al. 2023, arXiv:2305.15798), by leaving it
out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import nn

from hummingbird_edge.export.models.config import UNetConfig
from hummingbird_edge.export.models.unet import ResBlock, Stage, UNet
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import write_json

__all__ = ["Block", "Probe", "Pruning", "importance", "plan_pruning", "prune"]


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block with its transformers, as it lies in a U-Net."""

    name: str
    """`input_blocks.4` and the like."""
    side: str
    """`input_blocks` or `output_blocks`."""
    level: int
    channels: tuple[int, int]
    """Channels in and out."""
    layers: int
    """Modules that belong to it, the residual block included; a resampling one does not."""
    resampler: str | None
    """The name of the up- or downsampling module in the same stage, if any."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """Which block of the teacher each block of the student is."""

    kept: Mapping[str, str]
    """Student block to teacher block."""
    resamplers: Mapping[str, str]
    """Student resampling module to the teacher's."""
    importance: Mapping[str, float]
    """Teacher block to the relative change of the output without it."""

    @classmethod
    def read(cls, path: Path) -> "Pruning":
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Write the choice as JSON."""
        write_json(path, asdict(self))

    def table(self) -> str:
        """Return what was measured and kept as a Markdown table."""
        kept = {theirs: ours for ours, theirs in self.kept.items()}
        lines = ["| teacher's block | output changes without it by | kept as |", "|---|---|---|"]
        lines += [
            f"| {name} | {100 * worth:.2f} % | {kept.get(name, '')} |"
            for name, worth in self.importance.items()
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Probe:
    """Inputs on which the importance of blocks is measured, as `UNet.forward` takes them."""

    sample: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor


def blocks(config: UNetConfig) -> list[Block]:
    """List the residual blocks of a U-Net in the order they run, without the middle ones."""
    with torch.device("meta"):
        unet = UNet(config)
    found = []
    for side in ("input_blocks", "output_blocks"):
        stages: nn.ModuleList = getattr(unet, side)
        level = 0 if side == "input_blocks" else len(config.multipliers) - 1
        for index, stage in enumerate(stages):
            layers = list(stage)  # type: ignore[call-overload]
            if not isinstance(layers[0], ResBlock):
                level += 1 if index else 0  # a Downsample of its own; index 0 is the first conv
                continue
            name = f"{side}.{index}"
            is_resampled = side == "output_blocks" and hasattr(layers[-1], "conv")
            count = len(layers) - is_resampled
            convolution = layers[0].in_layers[2]
            assert isinstance(convolution, nn.Conv2d)
            channels = (convolution.in_channels, convolution.out_channels)
            resampler = f"{name}.{count}" if is_resampled else None
            found.append(Block(name, side, level, channels, count, resampler))
            level -= 1 if is_resampled else 0
    return found


@torch.no_grad()
def importance(unet: UNet, probes: Sequence[Probe]) -> dict[str, float]:
    """Return for each block the mean squared change of the output without it, over its square."""
    whole = [_run(unet, probe) for probe in probes]
    power = sum(float(output.square().mean()) for output in whole)
    worth = {}
    for block in blocks(unet.config):
        with _left_out(unet.get_submodule(block.name), block.layers):  # type: ignore[arg-type]
            changed = [_run(unet, probe) for probe in probes]
        changes = zip(changed, whole, strict=True)
        worth[block.name] = sum(float((a - b).square().mean()) for a, b in changes) / power
    return worth


def _run(unet: UNet, probe: Probe) -> torch.Tensor:
    cond = None
    if unet.config.guidance_width is not None:
        cond = torch.zeros(len(probe.sample), unet.config.guidance_width)
    output: torch.Tensor = unet(probe.sample, probe.timestep, probe.context, cond)
    return output.float()


@contextmanager
def _left_out(stage: Stage, layers: int) -> Iterator[None]:
    """Let only the shortcuts of a stage's first `layers` modules through."""

    def shortcut(module: nn.Module, args: tuple[torch.Tensor, ...], _: torch.Tensor) -> object:
        return module.skip_connection(args[0]) if isinstance(module, ResBlock) else args[0]

    hooks = [layer.register_forward_hook(shortcut) for layer in list(stage)[:layers]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def plan_pruning(teacher: UNetConfig, student: UNetConfig, worth: Mapping[str, float]) -> Pruning:
    """Choose the blocks that stay; raises RequestError where the student does not fit."""
    _require_same_family(teacher, student)
    places, slots = blocks(teacher), blocks(student)
    kept: dict[str, str] = {}
    resamplers: dict[str, str] = {}
    for side in ("input_blocks", "output_blocks"):
        for level in range(len(student.multipliers)):
            here = [b for b in places if (b.side, b.level) == (side, level)]
            wanted = [b for b in slots if (b.side, b.level) == (side, level)]
            chosen = _choose(here, wanted, worth)
            kept.update(zip((b.name for b in wanted), (b.name for b in chosen), strict=True))
            ours, theirs = ([b.resampler for b in x if b.resampler] for x in (wanted, here))
            resamplers.update(zip(ours, theirs, strict=True))
    downs = zip(_downsamplers(student), _downsamplers(teacher), strict=True)
    return Pruning(kept, {**resamplers, **dict(downs)}, dict(worth))


def _choose(
    here: Sequence[Block], wanted: Sequence[Block], worth: Mapping[str, float]
) -> tuple[Block, ...]:
    shape = [slot.channels for slot in wanted]
    fitting = [c for c in combinations(here, len(wanted)) if [b.channels for b in c] == shape]
    if not fitting:
        raise RequestError(
            f"no blocks of the teacher's {here[0].side} level {here[0].level} have the student's "
            f"channels {shape}: prune to a shape with the same widths"
        )
    if len(fitting) == 1:  # a student with all of them needs no measure
        return fitting[0]
    return max(fitting, key=lambda blocks: sum(worth[block.name] for block in blocks))


def _require_same_family(teacher: UNetConfig, student: UNetConfig) -> None:
    may_differ = {"res_blocks", "middle_block", "guidance_width"}
    for name in UNetConfig.__slots__:
        mine, theirs = getattr(student, name), getattr(teacher, name)
        if name not in may_differ and mine != theirs:
            raise RequestError(
                f"a student with {name} {mine} cannot be pruned from a teacher with {theirs}: only "
                f"residual blocks and the middle block are pruned"
            )
    if student.res_blocks > teacher.res_blocks or student.middle_block > teacher.middle_block:
        raise RequestError("the student has blocks that the teacher lacks: nothing to prune")


def _downsamplers(config: UNetConfig) -> list[str]:
    """Return the names of the stages that only downsample."""
    with torch.device("meta"):
        unet = UNet(config)
    names = [f"input_blocks.{index}" for index in range(1, len(unet.input_blocks))]
    return [name for name in names if hasattr(unet.get_submodule(name)[0], "op")]  # type: ignore[index]


def prune(
    weights: Mapping[str, torch.Tensor], pruning: Pruning, student: UNetConfig
) -> dict[str, torch.Tensor]:
    """Return the student's weights, views of the teacher's.

    A guidance embedding that the teacher lacks starts at zero: it changes nothing until trained
    (arXiv:2405.18750, section 4).
    """
    with torch.device("meta"):
        names = list(UNet(student).state_dict())
    moved = {**pruning.kept, **pruning.resamplers}
    pruned = {}
    for name in names:
        source = _source(name, moved)
        if source not in weights and name == "time_cond_proj.weight":
            pruned[name] = torch.zeros(student.width, student.guidance_width or 0)
        else:
            pruned[name] = weights[source]
    return pruned


def _source(name: str, moved: Mapping[str, str]) -> str:
    """Return the teacher's name of the student's tensor `name`: the longest prefix decides."""
    parts = name.split(".")
    for length in (3, 2):
        prefix = ".".join(parts[:length])
        if prefix in moved:
            return ".".join([moved[prefix], *parts[length:]])
    return name
