"""What a clip of the cartoons world shows, and what its captions say."""

import hashlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hummingbird_edge.distill.world.cartoons.catalog import CATALOG, NOUNS

__all__ = [
    "COLOURS",
    "DARK_GROUNDS",
    "GROUNDS",
    "PATHS",
    "SCENES",
    "SIZES",
    "Shot",
    "World",
    "describe",
    "is_held_out",
    "is_visible",
    "words",
]

SIZES: Mapping[str, tuple[str, ...]] = {
    "large": ("large", "big", "huge"),
    "small": ("small", "little", "tiny"),
}
PATHS: Mapping[str, tuple[str, ...]] = {
    "still": ("", "in place", "on the spot", "staying in place"),
    "left": ("moving left", "moving to the left", "going left", "crossing from right to left"),
    "right": ("moving right", "moving to the right", "going right", "crossing from left to right"),
    "rising": ("rising", "moving up", "going up", "floating upwards"),
    "sinking": ("sinking", "moving down", "going down", "dropping downwards"),
    "bouncing": ("bouncing", "bouncing up and down", "jumping up and down"),
    "circling": ("circling", "moving in a circle", "going round in circles"),
    "closer": ("coming closer", "getting closer", "approaching", "coming towards us"),
    "away": ("moving away", "going away", "getting smaller", "vanishing into the distance"),
    "arc": ("moving in an arc", "leaping in a high arc", "flying in an arc"),
}
SCENES: Mapping[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on a green meadow", "on the grass", "in a grassy field"),
    "snow": ("in the snow", "on a snowy field", "in a snowy landscape", "in winter"),
    "desert": ("in the desert", "in the desert at sunset", "among sand dunes at sunset"),
    "night": ("at night", "under a starry night sky", "at night under the stars"),
    "sea": ("on the sea", "on the ocean", "out at sea"),
    "underwater": ("under water", "underwater", "under the sea", "below the waves"),
    "forest": ("in a forest", "in the woods", "among the trees"),
    "street": ("on a street", "in the city", "on a city street", "in a town"),
    "beach": ("on the beach", "on a sandy beach", "on a beach by the sea"),
    "space": ("in space", "in outer space", "far out in space"),
    "mountains": ("in the mountains", "in front of snowy mountains", "before high mountains"),
}
COLOURS = ("white", "black", "red", "yellow", "green", "blue", "purple", "pink")
GROUNDS = (*SCENES, *COLOURS)
"""What lies behind the sprite: a scene, or a plain colour."""
DARK_GROUNDS = frozenset({"night", "space", "black"})

PLAIN_SHARE = 0.25
"""Share of clips on a plain colour."""
HELD_OUT_ONE_IN = 10

WORDINGS = (
    "{subject} {action} {path} {ground}",
    "{subject} {action} {ground}, {path}",
    "{subject} {action}, {path} {ground}",
    "{ground}, {subject} {action}, {path}",
    "{ground} {subject} is {action} and {path}",
    "{subject} is {action} and {path} {ground}",
    "{subject} {path} {ground}",
    "{ground}, {subject} {path}",
)
STILL_WORDINGS = (
    "{subject} {action} {path} {ground}",
    "{subject} is {action} {path} {ground}",
    "{ground}, {subject} {action} {path}",
    "{subject} {path} {ground}",
    "{subject} {ground}",
)
VOWEL_SOUNDS = ("a", "e", "i", "o", "umbrella", "hourglass")
CONSONANT_SOUNDS = ("unicorn", "ufo", "ewe")
PLURALS = frozenset({"music notes", "musical notes"})


@dataclass(frozen=True, slots=True)
class Shot:
    """Everything that a caption may say about one clip."""

    noun: str
    path: str
    size: str
    ground: str
    """A scene's name, or that of a plain colour."""

    @property
    def action(self) -> str:
        """What the noun's own animation shows; there is exactly one a noun."""
        return NOUNS[self.noun].action


@dataclass(frozen=True, slots=True)
class World:
    """The names in use, the size of a clip and how far it is left to chance."""

    nouns: tuple[str, ...] = tuple(noun.noun for noun in CATALOG)
    paths: tuple[str, ...] = tuple(PATHS)
    sizes: tuple[str, ...] = tuple(SIZES)
    grounds: tuple[str, ...] = GROUNDS
    resolution: int = 128
    """Pixels of a frame's side."""
    frames: int = 16
    jitter: float = 0.03
    """How far size and place vary, as a fraction of the frame's side."""

    def draw(self, rng: random.Random, held_out: bool = False) -> Shot:
        """Draw a shot of a combination that is held out, or of one that is not."""
        plain = [name for name in self.grounds if name in COLOURS]
        scenes = [name for name in self.grounds if name not in COLOURS]
        while True:
            is_plain = not scenes or (bool(plain) and rng.random() < PLAIN_SHARE)
            shot = Shot(
                rng.choice(self.nouns),
                rng.choice(self.paths),
                rng.choice(self.sizes),
                rng.choice(plain if is_plain else scenes),
            )
            if is_visible(shot) and is_held_out(shot) == held_out:
                return shot


def is_visible(shot: Shot) -> bool:
    """Tell whether the sprite stands out: a dark one does not on a dark ground."""
    return not (NOUNS[shot.noun].is_dark and shot.ground in DARK_GROUNDS)


def is_held_out(shot: Shot) -> bool:
    """Tell whether this noun on this path in this scene is kept from training, in any size."""
    text = f"{shot.noun}|{shot.ground}|{shot.path}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def describe(shot: Shot, rng: random.Random) -> str:
    """Say what `shot` shows in one of many ways; size, action and article may go unsaid."""
    path = rng.choice(PATHS[shot.path])
    wording = rng.choice(STILL_WORDINGS if shot.path == "still" else WORDINGS)
    text = wording.format(
        subject=_subject(shot, rng),
        action=shot.action,
        path=path,
        ground=rng.choice(_ground_phrases(shot.ground)),
    )
    return " ".join(text.split()).replace(" ,", ",").strip(", ")


def _subject(shot: Shot, rng: random.Random) -> str:
    """Name the noun or a synonym, with its size; what is large may go without."""
    names = NOUNS[shot.noun].names
    name = names[0] if rng.random() < 0.6 else rng.choice(names)
    sizes = [*SIZES[shot.size], *([""] * 3 if shot.size == "large" else [])]
    subject = f"{rng.choice(sizes)} {name}".strip()
    if rng.random() < 0.1:
        return subject
    return f"{_article(subject, name in PLURALS)} {subject}"


def _article(subject: str, is_plural: bool) -> str:
    if is_plural:
        return "some"
    is_vowel = subject.startswith(VOWEL_SOUNDS) and not subject.startswith(CONSONANT_SOUNDS)
    return "an" if is_vowel else "a"


def _ground_phrases(ground: str) -> tuple[str, ...]:
    if ground in SCENES:
        return SCENES[ground]
    return (f"on a {ground} background", f"against {ground}", f"on plain {ground}")


def words(nouns: Iterable[str] = NOUNS) -> frozenset[str]:
    """Return every word that captions of `nouns` use."""
    texts: list[str] = ["a an some is and on background against plain", *COLOURS]
    for group in (SIZES, PATHS, SCENES):
        texts += [text for phrases in group.values() for text in phrases]
    for name in nouns:
        texts += [*NOUNS[name].names, NOUNS[name].action]
    return frozenset(word for text in texts for word in text.split())
