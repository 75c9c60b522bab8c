"""A small part of the cartoons world."""

from collections.abc import Iterator

import pytest
import torch

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
