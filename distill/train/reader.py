"""Name the attributes of a scene from its encoded caption: a text encoder's first lesson.

Published models start from a text encoder trained on millions of captions. This one starts from
random weights, and denoising alone teaches it too late: words of motion help only once the network
distinguishes the times of frames, and by then the text encoder ignores them. Therefore it first
learns to name the attributes of the shapes world from captions, and keeps learning it.
"""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hummingbird_edge.distill.world.shapes.captions import sample_training
from hummingbird_edge.distill.world.shapes.scene import Scene, World, attributes
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Lessons", "Reader", "learn_to_read"]

STEPS = 300
BATCH = 64


class Reader(nn.ModuleDict):
    """A linear classifier per attribute on the mean hidden state."""

    def __init__(self, width: int, world: World) -> None:
        super().__init__(
            {name: nn.Linear(width, len(names)) for name, names in vocabulary(world).items()}
        )

    def loss(self, hidden: torch.Tensor, named: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean cross-entropy of naming the attributes, (B,) int64 each."""
        mean = hidden.float().mean(1)
        return torch.stack([cross_entropy(self[name](mean), x) for name, x in named.items()]).mean()


def vocabulary(world: World) -> dict[str, tuple[str, ...]]:
    """Return the possible names of each attribute of a scene."""
    return {
        "colour": world.colours,
        "shape": world.shapes,
        "size": world.sizes,
        "motion": world.motions,
        "background": world.backgrounds,
    }


def named(scenes: Sequence[Scene], world: World) -> dict[str, torch.Tensor]:
    """Return the index of each scene's attributes, (B,) int64 each."""
    rows = [attributes(scene) for scene in scenes]
    return {
        name: torch.tensor([names.index(row[name]) for row in rows])
        for name, names in vocabulary(world).items()
    }


class Lessons:
    """Training captions of scenes of one actor, with the attributes that they name."""

    def __init__(self, world: World, tokenizer: Tokenizer) -> None:
        self.world, self.tokenizer = world, tokenizer
        self.scenes = world.scenes()

    def draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return token ids (B, 77) int64, and (B,) int64 for each attribute."""
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = rng.choices(self.scenes, k=count)
        captions = sample_training(scenes, rng)
        ids = torch.tensor([self.tokenizer(caption).ids.tolist() for caption in captions])
        return ids, named(scenes, self.world)


def learn_to_read(
    text: TextEncoder, reader: Reader, lessons: Lessons, generator: torch.Generator
) -> dict[str, float]:
    """Train `text` and `reader` to name every attribute; returns the last batches' accuracy."""
    device = next(text.parameters()).device
    weights = [*text.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(weights, 1e-3)
    right: dict[str, list[float]] = {name: [] for name in reader}
    for _ in range(STEPS):
        ids, answers = lessons.draw(BATCH, generator)
        answers = {name: x.to(device) for name, x in answers.items()}
        hidden = text(ids.to(device))
        loss = reader.loss(hidden, answers)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        for name, found in right.items():
            guesses = reader[name](hidden.mean(1)).argmax(1)
            found.append(guesses.eq(answers[name]).float().mean().item())
    return {f"{name}_read": round(sum(x[-10:]) / len(x[-10:]), 3) for name, x in right.items()}
