"""How much each layer loses in int8: its signal-to-noise ratio when only it is quantized.

    SNR = 10 log10(sum y^2 / sum (y - y_q)^2)

y is the layer's output in float32 and y_q that of a quantized twin with the same inputs, whose
output nothing else reads. One run of one graph thus measures every layer separately; one graph per
layer would take hours at full size.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hummingbird_edge.quantize.layers import find_layers
from hummingbird_edge.quantize.node import add_node
from hummingbird_edge.quantize.ranges import Ranges
from hummingbird_edge.quantize.static import Quantizer

__all__ = ["Noise", "add_twins"]

_ABSENT = 1e-30


@dataclass
class Noise:
    """Sums of y^2, of (y - y_q)^2 and the count of y over all runs, by the layer's name."""

    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, names: Iterable[str], outputs: Iterable[NDArray[Any]]) -> None:
        """Add one run's outputs of a graph with twins, without its first."""
        rows = [float(np.asarray(output).sum(dtype=np.float64)) for output in outputs]
        for name, *row in zip(names, rows[::3], rows[1::3], rows[2::3], strict=True):
            self.sums[name] = self.sums.get(name, np.zeros(3)) + row

    def snr_db(self) -> dict[str, float]:
        """Return each layer's signal-to-noise ratio in decibels."""
        return {
            name: float(10 * np.log10(max(signal, _ABSENT) / max(noise, _ABSENT * signal, _ABSENT)))
            for name, (signal, noise, _) in self.sums.items()
        }

    def outputs(self) -> dict[str, float]:
        """Return how many values each layer computed."""
        return {name: float(count) for name, (_, _, count) in self.sums.items()}


def add_twins(model: ir.Model, ranges: Ranges, path: Path, weights: str) -> list[str]:
    """Write `model` to `path` with a quantized twin of every layer, and outputs of the sums.

    Returns the layers' names in the order of their three outputs, which follow the graph's own.
    `weights` names the weights file, in the folder of `path`.
    """
    graph, layers = model.graph, find_layers(model)
    quantizer = Quantizer(graph, ranges, layers)
    nodes = list(graph)
    following = dict(pairwise(nodes))
    names = []
    for layer in layers:
        y, y_q = layer.node.outputs[0], quantizer.product(layer)
        # Right behind the layer: at the end of the graph all activations would have to wait.
        totals = _sums(graph, layer.name, y, y_q, following.get(layer.node))
        for total in totals:
            total.type, total.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
            graph.outputs.append(total)
        names.append(layer.name)
    ir.save(model, path, external_data=weights, size_threshold_bytes=256)
    return names


def _sums(
    graph: ir.Graph, name: str, y: ir.Value, y_q: ir.Value, before: ir.Node | None
) -> list[ir.Value]:
    """Return sum y^2, sum (y - y_q)^2 and the count of y."""
    error = add_node(graph, "Sub", [y, y_q], f"{name}_error", before)
    squares = [
        add_node(graph, "ReduceSumSquare", [value], f"{value.name}_squared", before, keepdims=0)
        for value in (y, error)
    ]
    size = add_node(graph, "Size", [y], f"{name}_size", before)
    count = add_node(graph, "Cast", [size], f"{name}_count", before, to=int(ir.DataType.FLOAT))
    return [*squares, count]
