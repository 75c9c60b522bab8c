"""The catalog of the cartoons world: its nouns, and where their sprites lie."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CATALOG", "FACINGS", "NOUNS", "SPRITES_FOLDER", "SYNONYMS_FILE", "Noun", "synonyms"]

FOLDER = Path(__file__).parent
SPRITES_FOLDER = FOLDER / "sprites"
"""Where the sprites lie, with their licence."""
SYNONYMS_FILE = FOLDER / "synonyms.json"
"""Words that no caption uses, with the nouns that each is like and how much."""
FACINGS = ("left", "right", "none")


@dataclass(frozen=True, slots=True)
class Noun:
    """One kind of thing, with the one animation that there is of it."""

    code: str
    """Code point of the picture it was made from, as its packages name it."""
    noun: str
    synonyms: tuple[str, ...]
    action: str
    """What its animation shows, as a participle."""
    facing: str
    """Which side it looks to; what faces none is never mirrored."""
    group: str
    is_dark: bool
    """Whether it would vanish on a night sky."""

    def __post_init__(self) -> None:
        if self.facing not in FACINGS:
            raise ValueError(f"{self.noun} faces {self.facing!r}: known are {', '.join(FACINGS)}")

    @property
    def file(self) -> str:
        """Name of its sprite's file."""
        return self.noun.replace(" ", "-") + ".webp"

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that a caption may call it, the noun first."""
        return (self.noun, *self.synonyms)


def _read(path: Path) -> tuple[Noun, ...]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Noun(**{**row, "synonyms": tuple(row["synonyms"])}) for row in rows)


CATALOG: tuple[Noun, ...] = _read(FOLDER / "catalog.json")
"""Every noun, in the order of the sprites' tensor."""
NOUNS: Mapping[str, Noun] = {noun.noun: noun for noun in CATALOG}


def synonyms(nouns: Collection[str]) -> dict[str, str]:
    """Return words that no caption uses, each with that of `nouns` which it is most like."""
    words: Mapping[str, Mapping[str, float]]
    words = json.loads(SYNONYMS_FILE.read_text(encoding="utf-8"))
    near = {word: [noun for noun in like if noun in nouns] for word, like in words.items()}
    return {word: known[0] for word, known in near.items() if known}  # the nearest comes first
