"""Draw scenes of the world: anti-aliased shapes on a plain ground, from signed distances."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hummingbird_edge.distill.world.shapes.scene import Actor, Scene, World

__all__ = ["BACKGROUNDS", "COLOURS", "render"]

COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.08, 0.65, 0.18),
    "blue": (0.10, 0.22, 0.95),
    "yellow": (0.97, 0.92, 0.10),
    "purple": (0.60, 0.05, 0.85),
    "orange": (1.00, 0.50, 0.03),
    "cyan": (0.08, 0.88, 0.95),
}
BACKGROUNDS = {
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "gray": (0.5, 0.5, 0.5),
    "pink": (0.98, 0.66, 0.80),
}
RADII = {"large": 0.25, "small": 0.14}  # of the frame's side
EXTENT = 1.2  # the furthest any shape reaches from its centre, in radii
MARGIN = 0.05  # kept clear at the border, so that jitter never pushes an actor out
GROWTH_START = 0.4  # of the named size, which a growing actor reaches in its last frame

# Centre (x, y) of each actor's part of the frame, and how far it reaches to each side, in frame
# sides.
REGIONS = {
    None: (((0.5, 0.5),), (0.5, 0.5)),
    "above": (((0.5, 0.25), (0.5, 0.75)), (0.5, 0.25)),
    "left": (((0.25, 0.5), (0.75, 0.5)), (0.25, 0.5)),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One actor of one clip."""

    actor: Actor
    middle: tuple[float, float]
    room: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Poses:
    centre: Tensor  # (B, K, 2) x and y, in frame sides
    radius: Tensor  # (B, K)
    angle: Tensor  # (B, K) radians


def render(
    scenes: Sequence[Scene],
    world: World,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    times: Tensor | None = None,
) -> Tensor:
    """Draw one clip per scene, jittered by `generator`.

    `times` (B, K) in [0, 1] replaces the world's evenly spaced frames.
    Returns (B, K, 3, H, W) float32 in [0, 1].
    """
    if times is None:
        times = torch.linspace(0, 1, world.frames).expand(len(scenes), -1)
    times, side = times.to(device), world.resolution
    ground = rgb((BACKGROUNDS[scene.background] for scene in scenes), device)
    frames = ground.expand(-1, times.shape[1], -1, side, side).clone()
    # First actors, then second ones; each shape of a layer in one go.
    for layer in range(max(len(scene.actors) for scene in scenes)):
        rows = [row for row, scene in enumerate(scenes) if layer < len(scene.actors)]
        parts = [part_of(scenes, row, layer) for row in rows]
        poses = place(parts, world, generator, times[rows])
        for shape, members in rows_by(part.actor.shape for part in parts).items():
            drawn = [rows[member] for member in members]
            colour = rgb((COLOURS[parts[member].actor.colour] for member in members), device)
            alpha = coverage(shape, poses, members, side)[:, :, None]
            frames[drawn] = torch.lerp(frames[drawn], colour, alpha)
    return frames


def part_of(scenes: Sequence[Scene], row: int, layer: int) -> Part:
    centres, room = REGIONS[scenes[row].relation]
    return Part(scenes[row].actors[layer], centres[layer], room)


def rgb(colours: Iterable[tuple[float, float, float]], device: torch.device | str) -> Tensor:
    return torch.tensor(list(colours), device=device).reshape(-1, 1, 3, 1, 1)


def rows_by(names: Iterable[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows


def place(parts: Sequence[Part], world: World, generator: torch.Generator, times: Tensor) -> Poses:
    """Move every actor along its path: the motion fixes it, but for a little jitter."""
    device = times.device
    noise = torch.rand(len(parts), 4, 1, generator=generator, device=generator.device)
    noise = (2 * noise - 1).to(device) * world.jitter
    full = torch.tensor([RADII[part.actor.size] for part in parts], device=device)[:, None]
    middle = torch.tensor([part.middle for part in parts], device=device)
    room = torch.tensor([part.room for part in parts], device=device)
    radius = (full * (1 + noise[:, 0])).expand_as(times).clone()
    # The path shrinks by up to four jitters (12 %), never grows: the margin stays clear.
    reach = (room - EXTENT * full - MARGIN) * (1 - 2 * (world.jitter + noise[:, 1]))
    centre = (middle + noise[:, 2:, 0])[:, None].expand(*times.shape, 2).clone()
    angle = torch.zeros_like(times)
    for motion, rows in rows_by(part.actor.motion for part in parts).items():
        t = times[rows]
        if motion == "growing":
            radius[rows] *= GROWTH_START + (1 - GROWTH_START) * t
        elif motion == "spinning":
            angle[rows] = math.pi * t
        else:
            centre[rows] += reach[rows, None] * torch.stack(PATHS[motion](t), -1)
    return Poses(centre, radius, angle)


# Offsets (x, y) of the centre in [-1, 1] at times in [0, 1]; y points down.
PATHS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "right": lambda t: (2 * t - 1, torch.zeros_like(t)),
    "left": lambda t: (1 - 2 * t, torch.zeros_like(t)),
    "up": lambda t: (torch.zeros_like(t), 1 - 2 * t),
    "down": lambda t: (torch.zeros_like(t), 2 * t - 1),
    "circling": lambda t: ((2 * math.pi * t).sin(), -(2 * math.pi * t).cos()),
    "bouncing": lambda t: (torch.zeros_like(t), 1 - 2 * (2 * math.pi * t).sin().abs()),
}


def coverage(shape: str, poses: Poses, rows: list[int], side: int) -> Tensor:
    """Return how much of each pixel the shape covers, (rows, K, side, side) in [0, 1]."""
    centre, radius, angle = poses.centre[rows], poses.radius[rows], poses.angle[rows]
    grid = (torch.arange(side, device=radius.device) + 0.5) / side
    x = (grid - centre[..., :1])[..., None, :]
    y = (grid - centre[..., 1:])[..., None]
    scale = radius[..., None, None]
    cos, sin = angle.cos()[..., None, None] / scale, angle.sin()[..., None, None] / scale
    distance = SDFS[shape](x * cos + y * sin, y * cos - x * sin)
    return (0.5 - distance * (scale * side)).clamp_(0, 1)


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.84


def triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs() * math.sin(math.pi / 3) - y / 2, y) - EXTENT / 2


def cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - 1.05, torch.minimum(x, y) - 0.34)


def star(x: Tensor, y: Tensor, waist: float = 0.45) -> Tensor:
    # Mirror the ten half-points onto one; there the outline is a single straight line.
    x, y = x.abs(), -y
    cos, sin = math.cos(math.pi / 5), math.sin(math.pi / 5)
    fold = 2 * (cos * x - sin * y).clamp_(min=0)
    x, y = x - fold * cos, y + fold * sin
    fold = 2 * (-cos * x - sin * y).clamp_(min=0)
    x, y = (x + fold * cos).abs(), y + fold * sin - EXTENT
    edge_x, edge_y = waist * EXTENT * sin, EXTENT * (waist * cos - 1)
    return (y * edge_x - x * edge_y) / math.hypot(edge_x, edge_y)


SDFS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
}
