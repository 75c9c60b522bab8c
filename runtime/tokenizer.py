"""CLIP's byte-pair tokenizer, as OpenCLIP prepares and pads it.

Text is repaired (ftfy), HTML entities are unescaped twice, white space collapses, letters become
lower case. Ids start with <|startoftext|>, end with <|endoftext|> and are padded with 0, not with
the end token as most CLIP ports do. Source: Radford et al. 2021 (arXiv:2103.00020), OpenCLIP.
"""

import html
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import BundleError, RequestError

__all__ = ["WORD", "WORDS", "Tokenizer", "Tokens"]

WORDS = "words.txt"
"""The words that a small model was trained on, one a line; a model of all words has none."""
START, END = "<|startoftext|>", "<|endoftext|>"
WORD = r"[^\W\d_]+"
"""A run of letters."""
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of one prompt."""

    ids: NDArray[np.int64]
    """(length,) int64, padded with 0."""
    count: int
    """Tokens the whole prompt has, start and end included; more than `length` means it was cut."""
    unknown: tuple[str, ...] = ()
    """Words that the model was not trained on, as far as that is known."""

    @property
    def truncated(self) -> bool:
        """Whether the prompt was longer than the text encoder reads."""
        return self.count > len(self.ids)


class Tokenizer:
    """Turn prompts into token ids; reads `vocab.json`, `merges.txt` and `words.txt` of a folder.

    Raises BundleError where one of them is missing or damaged; only `words.txt` may be missing.
    """

    def __init__(self, folder: Path, length: int = 77) -> None:
        from tokenizers import Regex
        from tokenizers import Tokenizer as BytePairTokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

        self.folder, self.length = folder, length
        try:
            vocab, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
            self.start, self.end = vocab[START], vocab[END]
            self.vocabulary_size = max(vocab.values()) + 1
            model = BPE(vocab, merges, end_of_word_suffix="</w>", continuing_subword_prefix="")
        except Exception as error:  # the library raises bare exceptions
            raise BundleError(
                f"the tokenizer in {folder} cannot be read ({error}): export the bundle again"
            ) from error
        self.words = _read_words(folder / WORDS)
        self._tokenizer = BytePairTokenizer(model)
        self._tokenizer.pre_tokenizer = Sequence(
            [Split(Regex(PATTERN), "removed", invert=True), ByteLevel(False, use_regex=False)]
        )

    def __call__(self, prompt: str) -> Tokens:
        """Tokenize `prompt`; one that is too long is cut, with <|endoftext|> as its last token."""
        text = clean(prompt)
        try:
            words = self._tokenizer.encode(text).ids
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt holds text that is not Unicode ({error.reason}): type it again"
            ) from error
        whole = [self.start, *words, self.end]
        ids = np.zeros(self.length, np.int64)
        ids[: len(whole)] = whole[: self.length]
        if len(whole) > self.length:
            ids[-1] = self.end
        return Tokens(ids, len(whole), self._unknown(text))

    def _unknown(self, text: str) -> tuple[str, ...]:
        """Return the words of a cleaned prompt that the model does not know, each once."""
        if not self.words:
            return ()
        found = dict.fromkeys(re.findall(WORD, text))
        return tuple(word for word in found if word not in self.words)


def _read_words(path: Path) -> frozenset[str]:
    """Return the words of a small model; none where there is no such file."""
    if not path.is_file():
        return frozenset()
    try:
        words = frozenset(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read ({error}): export the bundle again") from error
    if not all(re.fullmatch(WORD, word) for word in words):
        raise BundleError(f"{path} holds more than words: export the bundle again")
    return words


def clean(prompt: str) -> str:
    """Repair, unescape, collapse and lower-case `prompt` as OpenCLIP does."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return " ".join(text.split()).strip().lower()
