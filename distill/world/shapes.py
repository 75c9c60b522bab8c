"""A world of captioned moving shapes: what a scene is, and what its captions say."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from hummingbird_edge.runtime.errors import RequestError

__all__ = [
    "FULL",
    "PAIRS",
    "SMALL",
    "Actor",
    "Scene",
    "World",
    "attributes",
    "describe",
    "is_held_out",
    "parse",
    "sample_held_out",
    "sample_training",
    "words",
]

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
COLOUR_WORDS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan")
GROUND_WORDS = ("black", "white", "gray", "pink")
GROUND_FRAMES = ("{} on a GROUND background", "{} against GROUND", "on a GROUND background, {}")
RELATION_WORDS = {"above": "above", "left": "to the left of"}

STACKED = frozenset({"right", "left", "growing", "spinning"})
"""Motions that fit the upper or lower half of a frame."""
ABREAST = frozenset({"up", "down", "bouncing", "growing", "spinning"})
"""Motions that fit its left or right half."""

MAX_TRIES = 60
"""Wordings of a scene to try for a held-out one; a scene of few wordings may have none."""
MAX_ROUNDS = 50
"""Rounds through the scenes after which no more held-out captions are to be had."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One moving shape, by the names that a caption may use."""

    colour: str
    shape: str
    size: str
    motion: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a caption may say about one clip."""

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
    """Return what the caption of a scene of one actor asks for, attribute to name."""
    (actor,) = scene.actors
    return {"background": scene.background, **asdict(actor)}


@dataclass(frozen=True, slots=True)
class World:
    """The names in use, the size of a clip and how far it is left to chance."""

    colours: tuple[str, ...] = COLOUR_WORDS
    shapes: tuple[str, ...] = tuple(SHAPE_WORDS)
    sizes: tuple[str, ...] = tuple(SIZE_WORDS)
    motions: tuple[str, ...] = tuple(MOTION_WORDS)
    backgrounds: tuple[str, ...] = GROUND_WORDS
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


def describe(scene: Scene, rng: random.Random) -> str:
    """Say what `scene` shows, in one of at least twelve ways; large and black may go unsaid."""
    frames = [frame.replace("GROUND", scene.background) for frame in GROUND_FRAMES]
    if scene.background == "black":
        frames.append("{}")
    clauses = [_clause(actor, rng, is_alone=len(scene.actors) == 1) for actor in scene.actors]
    if scene.relation is not None:
        clauses.insert(1, RELATION_WORDS[scene.relation])
    return rng.choice(frames).format(" ".join(clauses))


def _clause(actor: Actor, rng: random.Random, is_alone: bool) -> str:
    """Say what one actor does; two of them would not share a sentence with two finite verbs."""
    motions = [words for words in MOTION_WORDS[actor.motion] if is_alone or "ing" in words]
    sizes = [f"{word} " for word in SIZE_WORDS[actor.size]]
    if actor.size == "large":
        sizes.append("")
    noun = f"{rng.choice(sizes)}{actor.colour} {rng.choice(SHAPE_WORDS[actor.shape])}"
    article = "an" if noun[0] in "aeiou" else "a"
    return f"{article} {noun} {rng.choice(motions)}"


def parse(caption: str) -> Scene:
    """Return the scene of one actor that `caption` describes; raises ValueError for other text."""
    text = f" {caption.replace(',', '')} "
    if sum(f" {colour} " in text for colour in COLOUR_WORDS) > 1:
        raise ValueError(f"{caption!r} describes no scene of one actor: it names two colours")
    motion, phrase = _find(text, MOTION_WORDS)
    text = text.replace(f" {phrase} ", " ")  # "moving in a circle" is said of squares too
    ground, _ = _find(text, {name: (name,) for name in GROUND_WORDS}, "black")
    colour, _ = _find(text, {name: (name,) for name in COLOUR_WORDS})
    shape, size = _find(text, SHAPE_WORDS)[0], _find(text, SIZE_WORDS, "large")[0]
    return Scene.of(colour, shape, size, motion, ground)


def _find(
    text: str, names: Mapping[str, Sequence[str]], otherwise: str | None = None
) -> tuple[str, str]:
    """Return the name whose longest phrase stands in `text`, and that phrase."""
    phrases = {phrase: name for name, group in names.items() for phrase in group}
    found = [phrase for phrase in phrases if f" {phrase} " in text]
    if found:
        return phrases[longest := max(found, key=len)], longest
    if otherwise is None:
        raise ValueError(f"{text.strip()!r} describes no scene: it has none of {', '.join(names)}")
    return otherwise, ""


def words(pairs: bool = True) -> frozenset[str]:
    """Return every word that captions use; without `pairs`, those of scenes of one actor."""
    texts = [*SIZE_WORDS.values(), *SHAPE_WORDS.values(), *MOTION_WORDS.values()]
    texts += [COLOUR_WORDS, GROUND_WORDS, ("a", "an", "on", "against", "background")]
    texts += [tuple(RELATION_WORDS.values())] if pairs else []
    return frozenset(word for group in texts for text in group for word in text.split())


def is_held_out(caption: str) -> bool:
    """Tell whether `caption` is kept from training; about one in ten is."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big") % 10 == 0


def sample_training(scenes: Sequence[Scene], rng: random.Random) -> list[str]:
    """Draw a caption that is not held out for each scene."""
    captions = []
    for scene in scenes:
        text = describe(scene, rng)
        while is_held_out(text):
            text = describe(scene, rng)
        captions.append(text)
    return captions


def sample_held_out(
    world: World, n: int, seed: int, exclude: frozenset[str] = frozenset()
) -> list[tuple[Scene, str]]:
    """Draw `n` distinct held-out captions, none in `exclude`, spread over the world's scenes.

    A scene gets another caption only after every other had one. Raises RequestError where the
    world has fewer.
    """
    rng = random.Random(seed)
    found: dict[str, Scene] = {}
    for _ in range(MAX_ROUNDS):
        scenes = [world.draw(rng) for _ in range(n)] if world.pairs else list(world.scenes())
        rng.shuffle(scenes)
        for scene in scenes:
            text = describe(scene, rng)
            tries = 1
            while not is_held_out(text) and tries < MAX_TRIES:
                text = describe(scene, rng)
                tries += 1
            if is_held_out(text) and text not in exclude:
                found.setdefault(text, scene)
            if len(found) == n:
                return [(scene, text) for text, scene in found.items()]
    raise RequestError(
        f"the world gave {len(found)} held-out captions, {n} were asked for: ask for fewer"
    )
