"""Words that no caption of the cartoons had: found by what they mean, and read as their noun."""

import json
import random
from pathlib import Path

import torch
from torch import Tensor

from hummingbird_edge.distill.cartoons.recipe import SMALL, TINY
from hummingbird_edge.distill.cartoons.synonyms import learn_synonyms
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.world.cartoons.catalog import NOUNS, synonyms
from hummingbird_edge.distill.world.cartoons.curate_synonyms import LEFT_OUT, plural
from hummingbird_edge.distill.world.cartoons.shots import describe, words
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from tests.conftest import DATA


def agreed() -> dict[str, str]:
    """Return words that were never trained on, each with the noun that it means: hand-picked."""
    rows = json.loads((DATA / "agreed_synonyms.json").read_text("utf-8"))
    return {word: noun for noun, own in rows.items() for word in own}


def test_words_never_trained_on_are_read_as_the_noun_they_mean(tmp_path: Path) -> None:
    tokenizer = TINY.tokenizer(tmp_path)
    config = TINY.teacher_config(tokenizer, 1.0)
    parts = (TextEncoder(config.text), UNet(config.unet), VAE(config.vae))
    model = Model(config, *parts, tokenizer)
    taught = learn_synonyms(model, SMALL.world.nouns, tmp_path / "more")

    def read(which: Model, prompt: str) -> Tensor:
        with torch.no_grad():
            hidden: Tensor = which.text(which.ids([prompt]))
        return hidden

    captions = [describe(SMALL.world.draw(random.Random(i)), random.Random(i)) for i in range(40)]
    for caption in [*captions, "a t-rex walking", "a flying saucer"]:
        assert torch.equal(read(taught, caption), read(model, caption))
    pairs = {w: n for w, n in agreed().items() if n in SMALL.world.nouns}
    assert not {*pairs} & words()
    right = [
        torch.equal(read(taught, f"a {word} in the snow"), read(model, f"a {noun} in the snow"))
        for word, noun in pairs.items()
    ]
    assert sum(right) >= 0.6 * len(pairs)
    assert taught.tokenizer("a beagle walking").unknown == ()
    assert taught.tokenizer("a zyzzyva walking").unknown == ("zyzzyva",)
    assert taught.tokenizer("a robot walking").unknown == ("robot",)  # no noun of this model
    assert not [caption for caption in captions if taught.tokenizer(caption).unknown]


def test_synonyms_are_found_in_what_words_mean() -> None:
    found = synonyms(NOUNS)
    assert not set(found) & words()
    right = sum(found.get(word) == noun for word, noun in agreed().items())
    assert right >= 0.6 * len(agreed())
    assert found["robin"] == "bird"  # no ladybird
    misleading = {"photo", "picture", "young", "hand", "giant", "drive", "local"}
    assert not misleading & set(found)
    assert not LEFT_OUT & set(found)
    assert plural("wolf") == "wolves"
    assert (plural("bus"), plural("butterfly"), plural("monkey")) == (
        "buses",
        "butterflies",
        "monkeys",
    )
