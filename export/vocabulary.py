"""CLIP's byte-pair vocabulary: the whole of it, or what a small world's words need.

The merges are OpenAI's (MIT licence), as OpenCLIP carries them.
"""

import gzip
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hummingbird_edge.runtime.tokenizer import END, START, WORD, WORDS

__all__ = ["Vocabulary", "pieces_of"]


def byte_letters() -> list[str]:
    """Return the 256 printable letters that stand for bytes, in the vocabulary's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """An ordered list of merges; the tokens follow from it."""

    merges: tuple[str, ...]
    """Pairs "a b", most frequent first."""
    words: tuple[str, ...] = ()
    """The only words of a small world, in alphabetical order; none where all words are read."""

    @classmethod
    def clip(cls) -> "Vocabulary":
        """Return CLIP's own: 48,894 merges, 49,408 tokens."""
        packed = files("hummingbird_edge.export").joinpath("clip_merges.txt.gz").read_bytes()
        return cls(tuple(gzip.decompress(packed).decode("utf-8").splitlines()))

    @property
    def tokens(self) -> list[str]:
        """Every token, at the index that is its id."""
        letters = byte_letters()
        words = [letter + "</w>" for letter in letters]
        return [*letters, *words, *(m.replace(" ", "") for m in self.merges), START, END]

    def restricted_to(self, words: Iterable[str]) -> "Vocabulary":
        """Keep the merges that spell `words` (ASCII, lower case); other words fall into letters."""
        words = set(words)
        rank = {merge: index for index, merge in enumerate(self.merges)}
        used = {merge for word in words for merge in merges_of(word, rank)}
        known = sorted({part for word in words for part in re.findall(WORD, word)})
        return Vocabulary(tuple(merge for merge in self.merges if merge in used), tuple(known))

    def with_words(self, words: Iterable[str]) -> "Vocabulary":
        """Add merges, after all others, that make each of `words` one token.

        A word is left out where its merges would change the tokens of one that is known already.
        """
        words = dict.fromkeys(words)
        known = [word for word in self.words if word not in words]
        merges = list(self.merges)
        rank = {merge: index for index, merge in enumerate(merges)}
        before = {word: own for word in known if len(own := pieces_of(word, rank)) > 1}
        for word in words:
            trial, added = dict(rank), []
            while len(pieces := pieces_of(word, trial)) > 1:
                added.append(f"{pieces[0]} {pieces[1]}")
                trial[added[-1]] = len(trial)
            if all(pieces_of(other, trial) == own for other, own in before.items()):
                rank, merges = trial, [*merges, *added]
                known.append(word)
        return Vocabulary(tuple(merges), tuple(sorted(known)))

    def write(self, folder: Path, length: int) -> None:
        """Write the tokenizer's files into `folder`, in the layout of Transformers.

        What words a small world has stands in a file more, one a line.
        """
        folder.mkdir(parents=True, exist_ok=True)
        vocab = {token: index for index, token in enumerate(self.tokens)}
        text = json.dumps(vocab, ensure_ascii=False)
        (folder / "vocab.json").write_text(text, encoding="utf-8", newline="\n")
        text = "\n".join(["#version: 0.2", *self.merges, ""])
        (folder / "merges.txt").write_text(text, encoding="utf-8", newline="\n")
        if self.words:
            text = "\n".join([*self.words, ""])
            (folder / WORDS).write_text(text, encoding="utf-8", newline="\n")
        metadata = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": length,
            "bos_token": START,
            "eos_token": END,
            "unk_token": END,
            "pad_token": self.tokens[0],
        }
        text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8", newline="\n")


def merges_of(word: str, rank: Mapping[str, int]) -> list[str]:
    """Return the merges that byte-pair encoding applies to `word`, in order."""
    return _merged(word, rank)[0]


def pieces_of(word: str, rank: Mapping[str, int]) -> list[str]:
    """Return the tokens that byte-pair encoding makes of `word`."""
    return _merged(word, rank)[1]


def _merged(word: str, rank: Mapping[str, int]) -> tuple[list[str], list[str]]:
    pieces = [*word[:-1], word[-1] + "</w>"]
    applied: list[str] = []
    while True:
        pairs = [" ".join(pair) for pair in itertools.pairwise(pieces)]
        best = min(pairs, key=lambda pair: rank.get(pair, len(rank)), default="")
        if best not in rank:
            return applied, pieces
        applied.append(best)
        where = pairs.index(best)
        pieces[where : where + 2] = [best.replace(" ", "")]
