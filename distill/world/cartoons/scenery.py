"""Draw the grounds of the cartoons world: scenes made anew each time, and plain colours."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PAINTERS", "PLAIN", "paint"]

Colour = tuple[float, float, float]

PLAIN: Mapping[str, Colour] = {
    "white": (0.96, 0.96, 0.96),
    "black": (0.05, 0.05, 0.06),
    "red": (0.85, 0.20, 0.20),
    "yellow": (0.97, 0.88, 0.35),
    "green": (0.35, 0.70, 0.38),
    "blue": (0.30, 0.52, 0.90),
    "purple": (0.55, 0.35, 0.78),
    "pink": (0.97, 0.68, 0.80),
}
CHANCES = 48
"""Random numbers that a ground may use."""


@dataclass(slots=True)
class Canvas:
    """A batch of pictures of one scene, painted from the back to the front."""

    x: Tensor
    """(1, 1, W) from 0 at the left to 1."""
    y: Tensor
    """(1, H, 1) from 0 at the top to 1."""
    chances: Tensor
    """(B, CHANCES) in [0, 1), used up from the left."""
    pixels: Tensor
    """(B, 3, H, W) in [0, 1]."""
    used: int = 0

    def chance(self, low: float, high: float) -> Tensor:
        """Return the next random number of each picture, (B, 1, 1) in [low, high)."""
        value = low + (high - low) * self.chances[:, self.used, None, None]
        self.used += 1
        return value

    def edge(self, distance: Tensor) -> Tensor:
        """Return how much of each pixel lies inside, where `distance` in sides is positive."""
        return (distance * self.y.shape[1] + 0.5).clamp(0, 1)

    def sky(self, top: Colour, bottom: Colour, end: float | Tensor = 1.0) -> None:
        """Fill everything with a gradient from the top to the height `end`."""
        share = (self.y / end).clamp(0, 1)[:, None]
        first, last = self.colour(top), self.colour(bottom)
        self.pixels = (first + (last - first) * share).expand_as(self.pixels)

    def fill(self, mask: Tensor, colour: Colour, shade: Tensor | None = None) -> None:
        """Paint `colour`, times `shade`, where `mask` (B, H, W) is 1."""
        paint = self.colour(colour)
        if shade is not None:
            paint = (paint * shade[:, None]).clamp(0, 1)
        self.pixels = torch.lerp(self.pixels, paint.expand_as(self.pixels), mask[:, None])

    def land(self, height: Tensor, colour: Colour, fall: float = 0.0) -> None:
        """Paint everything below `height` (B, 1, W), darker by `fall` towards the bottom."""
        shade = 1 - fall * ((self.y - height) / (1 - height)).clamp(0, 1)
        self.fill(self.edge(self.y - height), colour, shade)

    def disc(self, x: Tensor, y: Tensor, radius: float | Tensor, colour: Colour) -> None:
        """Paint a disc around (x, y), (B, 1, 1) each."""
        distance = ((self.x - x).square() + (self.y - y).square()).sqrt()
        self.fill(self.edge(radius - distance), colour)

    def colour(self, colour: Colour) -> Tensor:
        """Return a colour as (1, 3, 1, 1)."""
        return torch.tensor(colour, device=self.pixels.device)[None, :, None, None]

    def hills(self, base: float, swing: float, waves: float) -> Tensor:
        """Draw a rolling line, (B, 1, W) heights around `base`."""
        first, second = self.chance(0, 2 * math.pi), self.chance(0, 2 * math.pi)
        wave = (waves * 2 * math.pi * self.x + first).sin()
        return base + swing * (0.65 * wave + 0.35 * (waves * 9.7 * self.x + second).sin())

    def cloud(self, shade: float = 1.0) -> None:
        """Paint one flat cloud of three discs."""
        x, y = self.chance(0.05, 0.95), self.chance(0.06, 0.26)
        for offset, radius in ((-0.06, 0.035), (0.0, 0.05), (0.065, 0.04)):
            self.disc(x + offset, y, radius, (shade, shade, shade))

    def stars(self, count: int, lowest: float) -> None:
        """Paint stars above the height `lowest`."""
        for _ in range(count):
            self.disc(self.chance(0, 1), self.chance(0, lowest), 0.007, (1.0, 1.0, 0.88))

    def pine(self, x: Tensor, foot: float, height: float | Tensor, colour: Colour) -> None:
        """Paint a fir tree whose foot stands at (x, foot)."""
        top = foot - height
        down = self.y - top
        self.fill(self.edge(0.38 * down - (self.x - x).abs()) * self.edge(foot - self.y), colour)


def _meadow(canvas: Canvas) -> None:
    canvas.sky((0.45, 0.72, 0.98), (0.85, 0.94, 1.0), 0.6)
    canvas.disc(canvas.chance(0.1, 0.9), canvas.chance(0.08, 0.2), 0.06, (1.0, 0.93, 0.55))
    canvas.cloud()
    canvas.cloud()
    canvas.land(canvas.hills(0.56, 0.04, 1.1), (0.55, 0.80, 0.42))
    canvas.land(canvas.hills(0.66, 0.03, 0.8), (0.42, 0.72, 0.30), 0.35)


def _snow(canvas: Canvas) -> None:
    canvas.sky((0.66, 0.76, 0.93), (0.90, 0.94, 1.0), 0.6)
    canvas.land(canvas.hills(0.58, 0.04, 1.0), (0.80, 0.86, 0.95))
    for _ in range(4):
        canvas.pine(canvas.chance(0, 1), 0.66, canvas.chance(0.14, 0.22), (0.24, 0.46, 0.45))
    canvas.land(canvas.hills(0.65, 0.015, 0.7), (0.97, 0.98, 1.0), 0.12)


def _desert(canvas: Canvas) -> None:
    canvas.sky((0.48, 0.22, 0.52), (1.0, 0.62, 0.32), 0.62)
    canvas.disc(canvas.chance(0.15, 0.85), canvas.chance(0.44, 0.54), 0.09, (1.0, 0.86, 0.45))
    canvas.land(canvas.hills(0.60, 0.05, 1.2), (0.80, 0.45, 0.28))
    canvas.land(canvas.hills(0.68, 0.03, 0.7), (0.88, 0.58, 0.33), 0.3)


def _night(canvas: Canvas) -> None:
    canvas.sky((0.04, 0.05, 0.20), (0.16, 0.20, 0.46), 0.75)
    canvas.stars(14, 0.62)
    canvas.disc(canvas.chance(0.1, 0.9), canvas.chance(0.1, 0.2), 0.07, (0.98, 0.96, 0.82))
    canvas.land(canvas.hills(0.74, 0.04, 1.0), (0.07, 0.14, 0.20), 0.4)


def _sea(canvas: Canvas) -> None:
    canvas.sky((0.42, 0.68, 0.97), (0.86, 0.95, 1.0), 0.55)
    canvas.cloud()
    canvas.cloud(0.97)
    level = canvas.chance(0.50, 0.58)
    canvas.land(level.expand(-1, 1, canvas.x.shape[2]), (0.16, 0.45, 0.80), 0.45)
    for row in range(6):
        x, y = canvas.chance(0, 1), 0.63 + 0.06 * row
        near = (canvas.x - x).abs() < 0.06 + 0.01 * row
        canvas.fill(canvas.edge(0.005 - (canvas.y - y).abs()) * near, (0.55, 0.76, 0.95))


def _underwater(canvas: Canvas) -> None:
    canvas.sky((0.25, 0.72, 0.86), (0.03, 0.24, 0.50))
    for _ in range(7):
        x, y, radius = canvas.chance(0, 1), canvas.chance(0.03, 0.75), canvas.chance(0.01, 0.022)
        canvas.disc(x, y, radius, (0.62, 0.88, 0.95))
    for _ in range(3):
        x, height = canvas.chance(0, 1), canvas.chance(0.2, 0.4)
        sway = 0.02 * (24 * canvas.y + canvas.chance(0, 6)).sin()
        weed = canvas.edge(0.018 - (canvas.x - x - sway).abs())
        canvas.fill(weed * canvas.edge(canvas.y - 1 + height), (0.10, 0.52, 0.36))
    canvas.land(canvas.hills(0.88, 0.02, 1.3), (0.85, 0.74, 0.50), 0.2)


def _forest(canvas: Canvas) -> None:
    canvas.sky((0.68, 0.86, 0.82), (0.88, 0.95, 0.86), 0.6)
    for _ in range(7):
        canvas.pine(canvas.chance(0, 1), 0.70, canvas.chance(0.40, 0.55), (0.36, 0.60, 0.45))
    for _ in range(6):
        canvas.pine(canvas.chance(0, 1), 0.72, canvas.chance(0.28, 0.42), (0.14, 0.40, 0.26))
    canvas.land(canvas.hills(0.70, 0.01, 0.8), (0.33, 0.44, 0.22), 0.3)


def _street(canvas: Canvas) -> None:
    canvas.sky((0.62, 0.78, 0.95), (0.90, 0.94, 0.98), 0.6)
    walls = ((0.82, 0.52, 0.42), (0.62, 0.64, 0.74), (0.90, 0.80, 0.58), (0.55, 0.68, 0.66))
    for index in range(4):
        left, top = index * 0.25 + canvas.chance(-0.03, 0.03), canvas.chance(0.12, 0.36)
        inside = (canvas.x >= left) & (canvas.x < left + 0.27)
        wall = canvas.edge(canvas.y - top) * inside
        canvas.fill(wall, walls[index])
        panes = ((canvas.x - left) * 12 % 1 - 0.5).abs() < 0.25
        rows = ((canvas.y - top) * 9 % 1 - 0.55).abs() < 0.25
        canvas.fill(wall * panes * rows, (0.93, 0.95, 0.82))
    flat = canvas.x.expand(len(canvas.chances), 1, -1) * 0
    canvas.land(flat + 0.66, (0.78, 0.76, 0.72))
    canvas.land(flat + 0.71, (0.36, 0.37, 0.41), 0.15)
    dashes = ((canvas.x + canvas.chance(0, 0.2)) * 5 % 1) < 0.55
    canvas.fill(canvas.edge(0.01 - (canvas.y - 0.86).abs()) * dashes, (0.94, 0.90, 0.70))


def _beach(canvas: Canvas) -> None:
    canvas.sky((0.40, 0.74, 0.99), (0.82, 0.94, 1.0), 0.5)
    canvas.disc(canvas.chance(0.1, 0.9), canvas.chance(0.08, 0.2), 0.055, (1.0, 0.95, 0.60))
    canvas.cloud()
    flat = canvas.x.expand(len(canvas.chances), 1, -1) * 0
    canvas.land(flat + 0.48, (0.18, 0.66, 0.78), 0.0)
    canvas.land(canvas.hills(0.63, 0.012, 1.5), (0.93, 0.97, 0.98))
    canvas.land(canvas.hills(0.655, 0.012, 1.5), (0.95, 0.86, 0.62), 0.15)


def _space(canvas: Canvas) -> None:
    canvas.sky((0.03, 0.02, 0.09), (0.13, 0.05, 0.22))
    canvas.stars(16, 1.0)
    x, y, radius = canvas.chance(0.1, 0.9), canvas.chance(0.1, 0.9), canvas.chance(0.08, 0.13)
    canvas.disc(x, y, radius, (0.78, 0.42, 0.36))
    canvas.disc(x - 0.25 * radius, y - 0.25 * radius, 0.6 * radius, (0.88, 0.56, 0.46))


def _mountains(canvas: Canvas) -> None:
    canvas.sky((0.50, 0.70, 0.95), (0.88, 0.93, 0.99), 0.6)
    canvas.cloud()
    for index in range(3):
        x = (index + 0.5) / 3 + canvas.chance(-0.12, 0.12)
        top, slope = canvas.chance(0.16, 0.34), canvas.chance(0.9, 1.3)
        rise = (canvas.y - top) / slope
        inside = canvas.edge(rise - (canvas.x - x).abs())
        canvas.fill(inside, (0.50, 0.53, 0.64))
        snow = top + 0.09 + 0.02 * (50 * (canvas.x - x)).sin()
        canvas.fill(inside * canvas.edge(snow - canvas.y), (0.97, 0.98, 1.0))
    canvas.land(canvas.hills(0.68, 0.025, 0.9), (0.46, 0.62, 0.36), 0.3)


PAINTERS: Mapping[str, Callable[[Canvas], None]] = {
    "meadow": _meadow,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
    "sea": _sea,
    "underwater": _underwater,
    "forest": _forest,
    "street": _street,
    "beach": _beach,
    "space": _space,
    "mountains": _mountains,
}


def paint(
    grounds: Sequence[str], side: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Paint one ground for each name, varied by `generator`; (B, 3, side, side) in [0, 1]."""
    chances = torch.rand(len(grounds), CHANCES, generator=generator).to(device)
    axis = (torch.arange(side, device=device) + 0.5) / side
    pictures = torch.empty(len(grounds), 3, side, side, device=device)
    for name in sorted(set(grounds)):
        rows = [row for row, ground in enumerate(grounds) if ground == name]
        own = chances[rows]
        blank = torch.empty(len(rows), 3, side, side, device=device)
        canvas = Canvas(axis[None, None], axis[None, :, None], own, blank)
        if name in PLAIN:
            canvas.pixels = canvas.colour(PLAIN[name]).expand_as(blank)
        else:
            PAINTERS[name](canvas)
        # Each day has a light of its own.
        light = 0.95 + 0.1 * own[:, -1, None, None, None]
        pictures[rows] = (canvas.pixels * light).clamp(0, 1)
    return pictures
