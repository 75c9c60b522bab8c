"""A small part of the cartoons world."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.distill.world.cartoons.shots import (
    Shot,
    World,
)
from hummingbird_edge.distill.world.cartoons.sprites import Sprites

FEW = ("cat", "rocket", "spider")
WORLD = World(nouns=FEW, resolution=64)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Train as the commands do: two threads beside other work wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return Sprites.read(FEW)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shot(
    noun: str = "cat", path: str = "still", size: str = "large", ground: str = "white"
) -> Shot:
    return Shot(noun, path, size, ground)


def assert_learns(stage: Stage[Any], steps: int, rate: float) -> None:
    """Train on the same clips `steps` times; the loss must fall by a fifth."""
    optimizer = torch.optim.AdamW(stage.trained.parameters(), rate)
    losses = []
    for step in range(steps):
        loss = stage(step, generator())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
