"""Which nodes need float32: the largest magnitudes seen while a graph runs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hummingbird_edge.kernels.variant import FUSIONS
from hummingbird_edge.quantize.half import LARGEST
from hummingbird_edge.quantize.node import add_node

__all__ = ["Peaks", "add_peaks"]

_NORMS = ("InstanceNormalization", "LayerNormalization")
_ARITHMETIC = ("Add", "Conv", "Div", "Gemm", "MatMul", "Mul", "Sub", *_NORMS)
_FUSED = {fusion.operator for fusion in FUSIONS.values()}
_HEADROOM = 4
"""Other prompts and seeds may go so many times as far."""


@dataclass
class Peaks:
    """The largest magnitude of each node's output so far, by the node's name."""

    largest: dict[str, float] = field(default_factory=dict)

    def add(self, names: Iterable[str], outputs: Iterable[NDArray[Any]]) -> None:
        """Raise the peaks by one run's outputs of a graph with peaks, without its first."""
        for name, output in zip(names, outputs, strict=True):
            peak = float(np.asarray(output))
            # NaN counts as too large, and stays.
            self.largest[name] = float(np.maximum(peak, self.largest.get(name, 0.0)))

    @property
    def far(self) -> set[str]:
        """The nodes whose values come too close to the largest float16."""
        return {name for name, peak in self.largest.items() if not peak * _HEADROOM <= LARGEST}

    def with_fused(self, plain: ir.Model, fused: ir.Model) -> "Peaks":
        """Return the peaks with those of single nodes in `fused` that stand for several of `plain`.

        Such a node is called after one of the nodes that it replaces. It gets the largest peak of
        these: what it computes on the way may be as large as what it writes.
        """
        nodes = {str(node.name): node for node in plain.graph}
        gone = {*nodes} - {str(node.name) for node in fused.graph}
        largest = dict(self.largest)
        for node in fused.graph:
            name = stem = str(node.name)
            if name in nodes or node.op_type not in _FUSED:
                continue
            while stem and stem not in gone:
                stem = stem.rpartition("_")[0]
            replaced = _connected(nodes, stem, gone) if stem else set[str]()
            peaks = [self.largest[each] for each in replaced if each in self.largest]
            if peaks:
                largest[name] = float(np.max(peaks))  # NaN, if one of them is
        return Peaks(largest)

    def islands(self, model: ir.Model) -> set[str]:
        """Return the nodes of `model` that write or read such values.

        Nodes that only move values are not measured: they write what they read.
        """
        found = set[str]()
        pending = [node for node in model.graph if node.name in self.far]
        while pending:
            node = pending.pop()
            found.add(str(node.name))
            readers = {reader for value in node.outputs for reader in value.consumers()}
            found |= {str(reader.name) for reader in readers}
            pending += [reader for reader in readers if reader.name not in self.largest]
        return found


def _connected(nodes: Mapping[str, ir.Node], start: str, among: Collection[str]) -> set[str]:
    """Return the names in `among` that lead from and to `start` without leaving it."""
    found, pending = set[str](), [start]
    while pending:
        name = pending.pop()
        if name in found or name not in among:
            continue
        found.add(name)
        sources = (value.producer() for value in nodes[name].inputs if value is not None)
        readers = (reader for value in nodes[name].outputs for reader in value.consumers())
        pending += [str(each.name) for each in (*sources, *readers) if each is not None]
    return found


def add_peaks(model: ir.Model) -> list[str]:
    """Give `model` each arithmetic node's peak as an output, in place.

    Returns the nodes' names in the order of these outputs, which follow those there were.
    """
    graph, nodes = model.graph, list(model.graph)
    names = []
    for node, following in pairwise(nodes):
        if node.op_type not in _ARITHMETIC:
            continue
        size = add_node(graph, "Abs", [node.outputs[0]], f"{node.name}_size", following)
        peak = add_node(graph, "ReduceMax", [size], f"{node.name}_peak", following, keepdims=0)
        wide = add_node(
            graph, "Cast", [peak], f"{node.name}_peak_wide", following, to=int(ir.DataType.FLOAT)
        )
        wide.type, wide.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        graph.outputs.append(wide)
        names.append(str(node.name))
    return names
