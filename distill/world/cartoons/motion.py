"""Where a sprite is at each moment of its path."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hummingbird_edge.distill.world.cartoons.shots import Shot

__all__ = ["SIDES", "Poses", "place"]

SIDES = {"large": 0.60, "small": 0.36}
"""Side of a sprite, in frame sides."""
MIDDLE = 0.55
"""Height at which a resting sprite stands, in frame sides from the top."""
FAR = 0.45
"""Size of a sprite that is far away, in its own sizes."""
NEAR = 1.15

Path = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps times (B, K) in [0, 1] and room (B, 1) to x and y from the middle, and to the scale."""


@dataclass(frozen=True, slots=True)
class Poses:
    """The place of each sprite in each frame, (B, K) each, in frame sides."""

    x: Tensor
    y: Tensor
    side: Tensor


def place(shots: Sequence[Shot], times: Tensor, jitter: float, generator: torch.Generator) -> Poses:
    """Move every shot's sprite along its path.

    `times` (B, K) lie in [0, 1]; place and size vary by `jitter`, drawn by `generator`.
    """
    noise = 2 * torch.rand(len(shots), 3, 1, generator=generator) - 1
    noise = noise.to(times.device) * jitter
    side = torch.tensor([[SIDES[shot.size]] for shot in shots], device=times.device)
    side = side * (1 + 2 * noise[:, 0])
    room = 0.5 - side / 2 + 0.04  # a sprite may reach a little over the border
    x, y, scale = torch.empty_like(times), torch.empty_like(times), torch.empty_like(times)
    for name in {shot.path for shot in shots}:
        rows = [row for row, shot in enumerate(shots) if shot.path == name]
        x[rows], y[rows], scale[rows] = PATHS[name](times[rows], room[rows])
    return Poses(0.5 + x + noise[:, 1], MIDDLE + y + noise[:, 2], side * scale)


def _still(t: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(t), torch.zeros_like(t), torch.ones_like(t)


def _sideways(sign: float) -> Path:
    def path(t: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return sign * room * (2 * t - 1), torch.zeros_like(t), torch.ones_like(t)

    return path


def _upright(sign: float) -> Path:
    def path(t: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = 0.5 - MIDDLE + sign * room * (2 * t - 1)
        return torch.zeros_like(t), y, torch.ones_like(t)

    return path


def _bouncing(t: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = 0.6 * room - 1.3 * room * (2 * math.pi * t).sin().abs()
    return torch.zeros_like(t), y, torch.ones_like(t)


def _circling(t: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    angle = 2 * math.pi * t
    radius = 0.85 * room
    return radius * angle.sin(), 0.5 - MIDDLE - radius * angle.cos(), torch.ones_like(t)


def _depth(start: float, end: float) -> Path:
    def path(t: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(t), torch.zeros_like(t), start + (end - start) * t

    return path


def _arc(t: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return room * (2 * t - 1), 0.8 * room - 1.7 * room * 4 * t * (1 - t), torch.ones_like(t)


PATHS: Mapping[str, Path] = {
    "still": _still,
    "left": _sideways(-1.0),
    "right": _sideways(1.0),
    "rising": _upright(-1.0),
    "sinking": _upright(1.0),
    "bouncing": _bouncing,
    "circling": _circling,
    "closer": _depth(FAR, NEAR),
    "away": _depth(NEAR, FAR),
    "arc": _arc,
}
