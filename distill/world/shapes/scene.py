"""The world of moving shapes: its scenes."""

import random
from dataclasses import asdict, dataclass
from itertools import product

__all__ = ["FULL", "PAIRS", "SMALL", "Actor", "Scene", "World", "attributes"]

SIZES = ("large", "small")
SHAPES = ("circle", "square", "triangle", "star", "cross")
MOTIONS = ("right", "left", "up", "down", "circling", "bouncing", "growing", "spinning")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan")
BACKGROUNDS = ("black", "white", "gray", "pink")

STACKED = frozenset({"right", "left", "growing", "spinning"})
"""Motions that fit the upper or lower half of a frame."""
ABREAST = frozenset({"up", "down", "bouncing", "growing", "spinning"})
"""Motions that fit its left or right half."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One moving shape, by the names that a caption may use."""

    colour: str
    shape: str
    size: str
    motion: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a caption may mention of one clip."""

    actors: tuple[Actor, ...]
    """One, or two of different colours: the upper or the left one first."""
    background: str

    @classmethod
    def of(cls, colour: str, shape: str, size: str, motion: str, background: str) -> "Scene":
        """Return a scene of one actor."""
        return cls((Actor(colour, shape, size, motion),), background)

    @property
    def relation(self) -> str | None:
        """How the first of two actors lies to the second; None for one."""
        if len(self.actors) < 2:
            return None
        return "above" if all(actor.motion in STACKED for actor in self.actors) else "left"


def attributes(scene: Scene) -> dict[str, str]:
    """Return the name of each attribute of a scene of one actor."""
    (actor,) = scene.actors
    return {"background": scene.background, **asdict(actor)}


@dataclass(frozen=True, slots=True)
class World:
    """The names in use, the size of a clip and how much chance varies it."""

    colours: tuple[str, ...] = COLOURS
    shapes: tuple[str, ...] = SHAPES
    sizes: tuple[str, ...] = SIZES
    motions: tuple[str, ...] = MOTIONS
    backgrounds: tuple[str, ...] = BACKGROUNDS
    pairs: float = 0.0
    """Share of scenes with two actors, in [0, 1]."""
    resolution: int = 64
    """Pixels of a frame's side."""
    frames: int = 16
    jitter: float = 0.03
    """How far size, path and place vary, as a fraction of the frame's side."""

    def scenes(self) -> tuple[Scene, ...]:
        """List every scene of one actor."""
        return tuple(
            Scene((actor,), ground) for actor in self.actors() for ground in self.backgrounds
        )

    def actors(self) -> tuple[Actor, ...]:
        """List every actor; a spinning circle would look still and is left out."""
        axes = (self.colours, self.shapes, self.sizes, self.motions)
        actors = (Actor(*names) for names in product(*axes))
        return tuple(a for a in actors if (a.shape, a.motion) != ("circle", "spinning"))

    def draw(self, rng: random.Random) -> Scene:
        """Draw a scene: of two actors with probability `pairs`, small ones of two colours."""
        ground = rng.choice(self.backgrounds)
        if rng.random() >= self.pairs:
            return Scene((rng.choice(self.actors()),), ground)
        small = [actor for actor in self.actors() if actor.size == "small"]
        fits = rng.choice([STACKED, ABREAST])
        first = rng.choice([actor for actor in small if actor.motion in fits])
        others = [a for a in small if a.motion in fits and a.colour != first.colour]
        return Scene((first, rng.choice(others)), ground)


FULL = World()
PAIRS = World(pairs=0.5)
SMALL = World(
    colours=("red", "green", "blue", "yellow"),
    shapes=("circle", "square", "triangle"),
    motions=("right", "left", "up", "down"),
    backgrounds=("black", "white"),
)
