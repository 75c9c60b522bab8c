"""What the pipeline asks of an inference engine: load a graph on a device, run it.

Graphs leave frames, height and width free, so that one serves every video. A session fixes them:
engines plan memory and choose kernels for sizes they know.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.devices.backend import Backend

__all__ = ["Array", "Session"]

Array = NDArray[Any]


class Session(Protocol):
    """A loaded graph."""

    backend: Backend
    """Where and in which precision it runs."""

    share: float
    """Share of its nodes that the device took, in [0, 1]."""

    def run(self, inputs: Mapping[str, Array]) -> NDArray[np.float32]:
        """Return the graph's first output; raises DeviceError where the engine fails."""
        return self.run_all(inputs)[0]

    def run_all(self, inputs: Mapping[str, Array]) -> tuple[NDArray[np.float32], ...]:
        """Return all outputs in their order; raises DeviceError where the engine fails."""
        ...
