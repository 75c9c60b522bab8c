"""Teach a trained text encoder words that no caption had.

MiniLM's space says which noun each is nearest to (`world/cartoons/curate_synonyms.py`). A word
becomes a token of its own with that noun's embedding, so "a corgi walking" is read as "a dog
walking" is. What the model knew before keeps its tokens and embeddings.
"""

import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.world.cartoons.catalog import synonyms
from hummingbird_edge.distill.world.cartoons.shots import words
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.runtime.tokenizer import WORD, Tokenizer

__all__ = ["learn_synonyms"]


def learn_synonyms(model: Model, nouns: Collection[str], folder: Path) -> Model:
    """Return the model with the words that are near one of `nouns`, its tokenizer in `folder`.

    Nouns of several tokens get none: no single embedding stands for them. Words of other nouns keep
    their tokens, for adapters, and are no longer among those that it says it knows.
    """
    vocab = json.loads((model.tokenizer.folder / "vocab.json").read_text(encoding="utf-8"))
    own = {part for word in words(nouns) for part in re.findall(WORD, word)}
    nouns = [noun for noun in nouns if f"{noun}</w>" in vocab]
    # A word that is a token already ends a longer one that is known.
    near = {
        word: f"{noun}</w>" for word, noun in synonyms(nouns).items() if f"{word}</w>" not in vocab
    }
    known = model.tokenizer.words
    vocabulary = Vocabulary.clip().restricted_to({*known, *near}).with_words(near)
    vocabulary = replace(
        vocabulary, words=tuple(word for word in vocabulary.words if word in own or word in near)
    )
    vocabulary.write(folder, model.config.text.context_length)
    tokenizer = Tokenizer(folder, model.config.text.context_length)
    old = model.text.token_embedding.weight.detach()
    rows = torch.zeros(tokenizer.vocabulary_size, old.shape[1])
    for index, token in enumerate(vocabulary.tokens):
        meant = token if token in vocab else near.get(token.removesuffix("</w>"))
        if meant is not None:
            rows[index] = old[vocab[meant]]
    config = replace(model.config, text=replace(model.config.text, vocab_size=len(rows)))
    text = TextEncoder(config.text)
    text.load_state_dict({**model.text.state_dict(), "token_embedding.weight": rows})
    return replace(model, config=config, text=text, tokenizer=tokenizer)
