"""A prompt to the contexts that the U-Net reads."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.tokenizer import WORDS, Tokenizer

__all__ = ["encode"]

Floats = NDArray[np.float32]

MIN_SIMILARITY = 0.75
"""Ratio of matching letters above which a word is taken for a slip of another (difflib)."""
MAX_NAMED = 8
"""Unknown words that are named; a prompt may have thousands."""


def encode(
    prompts: list[str],
    tokenizer: Tokenizer,
    run: Callable[[Mapping[str, NDArray[Any]]], Floats],
    notices: Notices | None = None,
) -> list[Floats]:
    """Return the encoded prompts (1, 77, D), each by one `run` of the text encoder.

    A prompt that is longer than the encoder reads is cut, with a warning; words that it was not
    trained on are noted.
    """
    contexts = []
    for prompt in prompts:
        tokens = tokenizer(prompt)
        if tokens.truncated and notices is not None:
            notices.warn(
                f"the prompt has {tokens.count} tokens, the model reads {len(tokens.ids)}: "
                f"the rest is cut"
            )
        if tokens.unknown and notices is not None:
            notices.note(_name_unknown(tokens.unknown, tokenizer.words))
        contexts.append(run({"input_ids": tokens.ids[None, :]}))
    return contexts


def _name_unknown(unknown: tuple[str, ...], known: frozenset[str]) -> str:
    """Say which words the model does not know, and which known ones are spelled nearly so."""
    named, more = unknown[:MAX_NAMED], len(unknown) - MAX_NAMED
    nearest = {word: get_close_matches(word, sorted(known), 1, MIN_SIMILARITY) for word in named}
    hints = [f'"{known[0]}" for "{word}"' for word, known in nearest.items() if known]
    names = ", ".join(f'"{word}"' for word in named) + (f" and {more} more" if more > 0 else "")
    advice = f"try {', '.join(hints)}" if hints else _list_known(len(known))
    return f"this model was not trained on {names}: {advice}"


def _list_known(count: int) -> str:
    return f"the {count} words that it knows are in {WORDS} of its bundle's tokenizer folder"
