"""Draw clips of the cartoons world: sprites pasted along their paths onto a painted ground."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hummingbird_edge.distill.world.cartoons.catalog import NOUNS
from hummingbird_edge.distill.world.cartoons.motion import Poses, place
from hummingbird_edge.distill.world.cartoons.scenery import paint
from hummingbird_edge.distill.world.cartoons.shots import Shot, World
from hummingbird_edge.distill.world.cartoons.sprites import LOOP, PYRAMID, Sprites

__all__ = ["Rendered", "render"]

TURNED = {"left": "left", "right": "right", "arc": "right"}
"""Which way a walker faces on paths that lead to a side."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Clips with what only the renderer knows of them."""

    frames: Tensor
    """(B, K, 3, H, W) float32 in [0, 1]."""
    alpha: Tensor
    """(B, K, 1, H, W) float32 in [0, 1], how much of each pixel is the sprite's."""


def render(
    shots: Sequence[Shot],
    world: World,
    sprites: Sprites,
    generator: torch.Generator,
    frames: Tensor | None = None,
    frozen: Sequence[bool] | None = None,
    in_windows: bool | None = None,
) -> Rendered:
    """Draw one clip per shot on the sprites' device, varied by `generator` (of the CPU).

    `frames` (B, K) int64 asks for some frames of each clip alone. Sprites marked `frozen` stop
    their own animation at a frame of their loop; their path goes on. `in_windows` chooses how
    sprites are pasted (`_paste`), by the device where it is None.
    """
    device, side = sprites.device, world.resolution
    if frames is None:
        frames = torch.arange(world.frames).expand(len(shots), -1)
    stop = torch.randint(LOOP, (len(shots), 1), generator=generator)
    is_frozen = torch.tensor(frozen if frozen is not None else [False] * len(shots))[:, None]
    loop = torch.where(is_frozen, stop, frames % LOOP).to(device)
    times = (frames / max(1, world.frames - 1)).to(device)
    poses = place(shots, times, world.jitter, generator)
    grounds = paint([shot.ground for shot in shots], side, generator, device)
    drawn = grounds[:, None].expand(-1, frames.shape[1], -1, -1, -1).clone()
    alpha = torch.zeros_like(drawn[:, :, :1])
    by_windows = device.type == "cpu" if in_windows is None else in_windows
    _paste(shots, sprites, loop, poses, drawn, alpha, by_windows)
    return Rendered(drawn, alpha)


def _paste(
    shots: Sequence[Shot],
    sprites: Sprites,
    loop: Tensor,
    poses: Poses,
    drawn: Tensor,
    alpha: Tensor,
    in_windows: bool,
) -> None:
    """Draw every sprite at its place into `drawn` (B, K, 3, S, S), and its alpha into `alpha`.

    In windows, sprites are sampled and blended one by one where they are: a CPU computes no empty
    pixels. Otherwise whole frames are, many at once: a GPU waits for no small launches.
    """
    side, shape = drawn.shape[-1], loop.shape
    rows = sprites.rows([shot.noun for shot in shots])[:, None].expand(shape).flatten()
    turns = torch.tensor([_turn(shot) for shot in shots], device=loop.device)
    turns = turns[:, None].expand(shape).flatten()
    x, y, width = (part.expand(shape).flatten() * side for part in (poses.x, poses.y, poses.side))
    levels = _levels(width)
    canvas, mask = drawn.flatten(0, 1), alpha.flatten(0, 1)
    for level in levels.unique().tolist():
        chosen = (levels == level).nonzero()[:, 0]
        span = math.ceil(width[chosen].max().item()) + 2 if in_windows else side
        left, top = (
            (middle[chosen] - span / 2).round() if in_windows else torch.zeros_like(middle[chosen])
            for middle in (x, y)
        )
        source = sprites.levels[level][rows[chosen], loop.flatten()[chosen]].float()
        scale = 2 / width[chosen, None]
        pixels = torch.arange(span, device=loop.device) + 0.5
        across = (pixels + (left - x[chosen])[:, None]) * scale * turns[chosen, None]
        down = (pixels + (top - y[chosen])[:, None]) * scale
        windows = _sample(source, across, down).div_(255)
        if in_windows:
            corners = torch.stack((chosen, top.long(), left.long()), -1).tolist()
            for window, (index, row, column) in zip(windows, corners, strict=True):
                _blend(window, canvas[index], mask[index], row, column)
        else:
            mask[chosen] = windows[:, 3:]
            canvas[chosen] = torch.addcmul(windows[:, :3], canvas[chosen], 1 - windows[:, 3:])


def _sample(source: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Sample sprites (N, 4, s, s) at columns and rows (N, span), -1 to 1 from border to border."""
    span = across.shape[1]
    grid = torch.empty(len(source), span, span, 2, device=source.device)
    grid[..., 0], grid[..., 1] = across[:, None, :], down[:, :, None]
    return functional.grid_sample(source, grid, align_corners=False)


def _blend(window: Tensor, picture: Tensor, alpha: Tensor, row: int, column: int) -> None:
    """Lay premultiplied RGBA over `picture` with its corner at (row, column), cut at the border."""
    span, side = window.shape[-1], picture.shape[-1]
    top, bottom = max(0, row), min(side, row + span)
    left, right = max(0, column), min(side, column + span)
    if top >= bottom or left >= right:
        return
    part = window[:, top - row : bottom - row, left - column : right - column]
    below = picture[:, top:bottom, left:right]
    below.addcmul_(below, part[3:], value=-1).add_(part[:3])
    alpha[:, top:bottom, left:right] = part[3:]


def _levels(pixels: Tensor) -> Tensor:
    """Return the coarsest level of the pyramid that is no smaller than what is drawn, nearly."""
    sides = torch.tensor(PYRAMID, device=pixels.device)
    return (sides[None] >= 0.95 * pixels[:, None]).sum(1).clamp(min=1) - 1


def _turn(shot: Shot) -> float:
    """Return -1 where the sprite has to be mirrored to face its way, else 1."""
    facing, wanted = NOUNS[shot.noun].facing, TURNED.get(shot.path)
    return -1.0 if wanted is not None and facing not in ("none", wanted) else 1.0
