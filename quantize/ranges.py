"""The ranges of activations, observed while a graph runs.

The graph gets two more outputs for each observed activation: the smallest and the largest value of
every channel. They take a few kilobytes per run, whatever the size of the video, and only the
extremes so far are kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hummingbird_edge.quantize.layers import Layer
from hummingbird_edge.quantize.node import add_constant, add_node
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Ranges", "observe"]

_ROOM = 1.5
"""Without, 6 of 400 videos of moving shapes were right in float32 alone; so, none."""
Extremes = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass
class Ranges:
    """Smallest and largest values of each activation, (C,) float32 each, by its name."""

    extremes: dict[str, Extremes] = field(default_factory=dict)
    margin: float = 1.0
    """By which values in use exceed those that were seen: more than 1 where few were."""

    def add(self, names: Iterable[str], outputs: Iterable[NDArray[Any]]) -> None:
        """Widen the ranges by one run's outputs of an observed graph, without its first.

        Raises RequestError for values that are not finite.
        """
        rows = [np.asarray(output, np.float32).reshape(-1) for output in outputs]
        for name, low, high in zip(names, rows[::2], rows[1::2], strict=True):
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise RequestError(
                    f"calibration met values at {name} that are not finite: check the checkpoint, "
                    f"and that the bundle makes videos with hb-run"
                )
            before = self.extremes.get(name, (low, high))
            self.extremes[name] = np.minimum(before[0], low), np.maximum(before[1], high)

    def largest(self, name: str) -> NDArray[np.float32]:
        """Return the largest magnitude of each channel, (C,), with a margin if others are larger.

        One channel exceeds what calibration saw of it much more easily than all of them together.
        """
        low, high = self.extremes[name]
        found: NDArray[np.float32] = np.float32(self.margin) * np.maximum(-low, high)
        with_room: NDArray[np.float32] = np.minimum(np.float32(_ROOM) * found, found.max())
        return with_room

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return plain arrays for storing."""
        return {name: np.stack(extremes) for name, extremes in self.extremes.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "Ranges":
        """Restore ranges from `arrays`."""
        return cls({name: (rows[0], rows[1]) for name, rows in arrays.items()})


def observe(model: ir.Model, layers: Iterable[Layer]) -> list[str]:
    """Give `model` outputs for the ranges of the inputs of its `layers`, in place.

    Returns the names of the activations, in the order of their pairs of outputs, which follow those
    there were.
    """
    names: dict[str, None] = {}
    for layer in layers:
        for value in layer.sides:
            if value.name in names:
                continue
            names[str(value.name)] = None
            for kind in ("ReduceMin", "ReduceMax"):
                # Here, not at the end of the graph: activations would all have to wait for it.
                model.graph.outputs.append(_extreme(layer, value, kind))
    return list(names)


def _extreme(layer: Layer, value: ir.Value, kind: str) -> ir.Value:
    """Add the extreme of every channel, (C,), of an activation of `layer`, before its node."""
    node, graph, width = layer.node, layer.node.graph, layer.in_width
    assert isinstance(graph, ir.Graph)
    name, rows, axes = f"{value.name}_{kind}", value, [0, 2, 3]
    if width is not None:
        shape = add_constant(graph, f"{name}_shape", np.array([-1, width]))
        rows, axes = add_node(graph, "Reshape", [value, shape], f"{name}_rows", node), [0]
    where = add_constant(graph, f"{name}_axes", np.array(axes))
    found = add_node(graph, kind, [rows, where], name, node, keepdims=0)
    found.type, found.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None])
    return found
