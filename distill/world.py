"""A world of captioned moving shapes, drawn on the fly."""

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

__all__ = [
    "FULL",
    "SMALL",
    "Scene",
    "World",
    "captions",
    "is_held_out",
    "render",
    "sample_held_out",
    "sample_training",
]

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
RADII = {"large": 0.25, "small": 0.14}  # of the frame's side; the first is the unspoken size
EXTENT = 1.2  # the furthest any shape reaches from its centre, in radii
MARGIN = 0.05  # kept clear at the border, so that jitter never pushes an object out
GROWTH_START = 0.4  # of the named size, which a growing object reaches in its last frame

SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little")}
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross",),
}
MOTION_WORDS = {
    "right": ("moving right", "moves to the right", "travelling to the right", "drifts right"),
    "left": ("moving left", "moves to the left", "travelling to the left", "drifts left"),
    "up": ("moving up", "moves up", "travelling upwards", "rises"),
    "down": ("moving down", "moves down", "travelling downwards", "sinks"),
    "circling": ("circling", "moving in a circle", "circles around", "going around in a circle"),
    "bouncing": ("bouncing", "bouncing up and down", "bounces", "bounces up and down"),
    "growing": ("growing", "getting bigger", "grows", "gets bigger"),
    "spinning": ("spinning", "spinning in place", "spins", "rotates"),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Name everything that a caption may say about one clip."""

    colour: str
    shape: str
    size: str
    motion: str
    background: str


@dataclass(frozen=True, slots=True)
class World:
    """Hold the vocabulary and the clip geometry; `jitter` is a fraction of the frame's side."""

    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[str, ...] = tuple(SHAPE_WORDS)
    sizes: tuple[str, ...] = tuple(RADII)
    motions: tuple[str, ...] = tuple(MOTION_WORDS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    resolution: int = 64
    frames: int = 16
    jitter: float = 0.03

    def scenes(self) -> tuple[Scene, ...]:
        """List every scene of the world; a spinning circle would look still and is left out."""
        axes = (self.colours, self.shapes, self.sizes, self.motions, self.backgrounds)
        scenes = (Scene(*names) for names in product(*axes))
        return tuple(s for s in scenes if (s.shape, s.motion) != ("circle", "spinning"))

    def captions(self, scene: Scene) -> tuple[str, ...]:
        """List every caption of `scene`; only a default size or background goes unsaid."""
        return captions(scene, default_background=self.backgrounds[0])


FULL = World()
SMALL = World(
    colours=("red", "green", "blue", "yellow"),
    shapes=("circle", "square", "triangle"),
    motions=("right", "left", "up", "down"),
    backgrounds=("black", "white"),
)


def captions(scene: Scene, default_background: str = "black") -> tuple[str, ...]:
    """List every caption of `scene`, at least twelve distinct strings."""
    sizes = [f"{word} " for word in SIZE_WORDS[scene.size]]
    if scene.size == "large":
        sizes.insert(0, "")
    ground = scene.background
    frames = [f"{{}} on a {ground} background", f"{{}} against {ground}"]
    frames.append(f"on a {ground} background, {{}}")
    if ground == default_background:
        frames.insert(0, "{}")
    words = product(frames, sizes, SHAPE_WORDS[scene.shape], MOTION_WORDS[scene.motion])
    return tuple(
        frame.format(f"{with_article(f'{size}{scene.colour} {shape}')} {motion}")
        for frame, size, shape, motion in words
    )


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def is_held_out(caption: str) -> bool:
    """Tell whether `caption` is kept from training; about one in ten is."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big") % 10 == 0


@lru_cache(maxsize=8)
def caption_table(world: World, held_out: bool) -> tuple[tuple[Scene, tuple[str, ...]], ...]:
    rows = (
        (scene, tuple(c for c in world.captions(scene) if is_held_out(c) == held_out))
        for scene in world.scenes()
    )
    return tuple(row for row in rows if row[1])


def sample_training(world: World, n: int, generator: torch.Generator) -> list[tuple[Scene, str]]:
    """Draw `n` scenes with a training caption each, with replacement, from a CPU generator."""
    table = caption_table(world, held_out=False)
    scenes = torch.randint(len(table), (n,), generator=generator).tolist()
    picks = torch.rand(n, generator=generator, dtype=torch.float64).tolist()
    pairs = (table[i] for i in scenes)
    return [(s, texts[int(u * len(texts))]) for (s, texts), u in zip(pairs, picks, strict=True)]


def sample_held_out(world: World, n: int, seed: int) -> list[tuple[Scene, str]]:
    """Draw `n` distinct held-out captions with their scenes, spread evenly over the scenes."""
    draw = random.Random(seed)
    table = [(scene, list(texts)) for scene, texts in caption_table(world, held_out=True)]
    draw.shuffle(table)
    for _, texts in table:
        draw.shuffle(texts)
    found: list[tuple[Scene, str]] = []
    while len(found) < n and table:
        found += [(scene, texts.pop()) for scene, texts in table]
        table = [row for row in table if row[1]]
    if len(found) < n:
        raise ValueError(f"the world has {len(found)} held-out captions, {n} were asked for")
    return found[:n]


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

    `times` (B, K) in [0, 1] asks for other frames than the world's evenly spaced ones.
    Returns (B, K, 3, H, W) float32 in [0, 1].
    """
    if times is None:
        times = torch.linspace(0, 1, world.frames).expand(len(scenes), -1)
    poses = place(scenes, world, generator, times.to(device))
    side = world.resolution
    colour = rgb((COLOURS[s.colour] for s in scenes), device)
    ground = rgb((BACKGROUNDS[s.background] for s in scenes), device)
    frames = torch.empty(*times.shape, 3, side, side, device=device)
    for shape, rows in rows_by(s.shape for s in scenes).items():
        alpha = coverage(shape, poses, rows, side)[:, :, None]
        frames[rows] = torch.lerp(ground[rows], colour[rows], alpha)
    return frames


def rgb(colours: Iterable[tuple[float, float, float]], device: torch.device | str) -> Tensor:
    return torch.tensor(list(colours), device=device).reshape(-1, 1, 3, 1, 1)


def rows_by(names: Iterable[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows


def place(
    scenes: Sequence[Scene], world: World, generator: torch.Generator, times: Tensor
) -> Poses:
    """Move every object along its path: the motion fixes it, but for a little jitter."""
    noise = torch.rand(len(scenes), 4, 1, generator=generator, device=generator.device)
    noise = (2 * noise - 1).to(times.device) * world.jitter
    full = torch.tensor([RADII[s.size] for s in scenes], device=times.device)[:, None]
    radius = (full * (1 + noise[:, 0])).expand_as(times).clone()
    # The path shrinks by up to four jitters (12 %), never grows: the margin stays clear.
    reach = (0.5 - EXTENT * full - MARGIN) * (1 - 2 * (world.jitter + noise[:, 1]))
    centre = (0.5 + noise[:, 2:, 0])[:, None].expand(*times.shape, 2).clone()
    angle = torch.zeros_like(times)
    for motion, rows in rows_by(s.motion for s in scenes).items():
        t = times[rows]
        if motion == "growing":
            radius[rows] *= GROWTH_START + (1 - GROWTH_START) * t
        elif motion == "spinning":
            angle[rows] = math.pi * t
        else:
            centre[rows] += reach[rows, :, None] * torch.stack(PATHS[motion](t), -1)
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
