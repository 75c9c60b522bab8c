"""Record the inputs of a network while it runs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Inputs", "Network", "record_inputs"]

Inputs = dict[str, NDArray[Any]]
"""Of one run of a graph, by name."""
Network = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""Takes a graph's inputs by name, returns its first output."""


def record_inputs(network: Network, recorded: list[Inputs]) -> Network:
    """Return `network`, which now appends a copy of its inputs to `recorded` at each run."""

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        recorded.append({name: np.array(value) for name, value in inputs.items()})
        return network(inputs)

    return run
