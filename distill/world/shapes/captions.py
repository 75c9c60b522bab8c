"""Captions of moving shapes, and the ones that training never sees."""

import random
from collections.abc import Mapping, Sequence

from hummingbird_edge.distill.world.held_out import is_held_out
from hummingbird_edge.distill.world.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    Actor,
    Scene,
    World,
)
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["describe", "parse", "sample_held_out", "sample_training", "words"]

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
GROUND_FRAMES = ("{} on a GROUND background", "{} against GROUND", "on a GROUND background, {}")
RELATION_WORDS = {"above": "above", "left": "to the left of"}

MAX_TRIES = 60
"""Wordings of a scene to try for a held-out one; a scene of few wordings may have none."""
MAX_ROUNDS = 50
"""Rounds through the scenes after which no more held-out captions are to be had."""


def describe(scene: Scene, rng: random.Random) -> str:
    """Describe `scene` in one of at least twelve wordings; "large" and "black" may be left out."""
    frames = [frame.replace("GROUND", scene.background) for frame in GROUND_FRAMES]
    if scene.background == "black":
        frames.append("{}")
    clauses = [_clause(actor, rng, is_alone=len(scene.actors) == 1) for actor in scene.actors]
    if scene.relation is not None:
        clauses.insert(1, RELATION_WORDS[scene.relation])
    return rng.choice(frames).format(" ".join(clauses))


def _clause(actor: Actor, rng: random.Random, is_alone: bool) -> str:
    """Describe one actor; of two, only by participles: one sentence has room for one verb."""
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
    if sum(f" {colour} " in text for colour in COLOURS) > 1:
        raise ValueError(f"{caption!r} describes no scene of one actor: it names two colours")
    motion, phrase = _find(text, MOTION_WORDS)
    text = text.replace(f" {phrase} ", " ")  # squares move in a circle too
    ground, _ = _find(text, {name: (name,) for name in BACKGROUNDS}, "black")
    colour, _ = _find(text, {name: (name,) for name in COLOURS})
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
    texts += [COLOURS, BACKGROUNDS, ("a", "an", "on", "against", "background")]
    texts += [tuple(RELATION_WORDS.values())] if pairs else []
    return frozenset(word for group in texts for text in group for word in text.split())


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
        f"this world has {len(found)} held-out captions, {n} are needed: choose fewer"
    )
