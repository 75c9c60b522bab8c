"""Name what a caption asks for: the text encoder's first lesson.

Pictures alone teach words too late. So the text encoder first learns to name noun, ground, path and
size of captions, synonyms included, and goes on while pictures are learned.
"""

import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hummingbird_edge.distill.world.cartoons.shots import World, describe
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Lessons", "Reader"]


class Reader(nn.ModuleDict):
    """One linear reading of the mean hidden state an attribute; dropped after training."""

    def __init__(self, width: int, world: World) -> None:
        super().__init__(
            {name: nn.Linear(width, len(names)) for name, names in vocabulary(world).items()}
        )

    def loss(self, hidden: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of naming the attributes, (B,) int64 each."""
        mean = hidden.float().mean(1)
        losses = [cross_entropy(self[name](mean).float(), x) for name, x in answers.items()]
        return torch.stack(losses).mean()

    def accuracy(self, hidden: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
        """Return the share of captions of which everything is named right, a scalar."""
        mean = hidden.float().mean(1)
        hits = [self[name](mean).argmax(1).eq(x) for name, x in answers.items()]
        return torch.stack(hits).all(0).float().mean()


def vocabulary(world: World) -> dict[str, tuple[str, ...]]:
    """Return what each attribute of a shot may be."""
    return {
        "noun": world.nouns,
        "ground": world.grounds,
        "path": world.paths,
        "size": world.sizes,
    }


class Lessons:
    """Captions of shots that are not held out, with the names of what they say."""

    def __init__(self, world: World, tokenizer: Tokenizer) -> None:
        self.world, self.tokenizer = world, tokenizer
        self.vocabulary = vocabulary(world)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return token ids (B, L) int64, and (B,) int64 for each attribute."""
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        shots = [self.world.draw(rng) for _ in range(count)]
        ids = [self.tokenizer(describe(shot, rng)).ids.tolist() for shot in shots]
        answers = {
            name: torch.tensor([names.index(getattr(shot, name)) for shot in shots])
            for name, names in self.vocabulary.items()
        }
        return torch.tensor(ids), answers
