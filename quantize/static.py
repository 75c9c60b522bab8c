"""INT8 with fixed scales: each layer's activations and weight go through 8 bits.

    q = clip(round(x / S) + Z, -128, 127)        x' = S (q - Z)

A weight has one scale S for every output channel, with Z = 0 and |q| <= 127; activations have one
for all, from the ranges that calibration saw. A graph says so with QuantizeLinear and
DequantizeLinear around each layer, which ONNX Runtime and OpenVINO both turn into products of 8-bit
integers; the rest stays as it was.

Activations are symmetric (Z = 0): in OpenVINO, with AMX, a convolution with a zero point takes
40 % longer and a MatMul 20 %. A convolution over a skip concatenation becomes the sum of two, one a
side, so that each side has a scale of its own.

ONNX Runtime's `quantize_static` would do the same to a graph with float32 weights below protobuf's
2 GB; these graphs store float16 behind a Cast, in a file that other graphs share, and it knows no
scale a side. `benchmarks/quantization.py` compares both.

Source: Jacob et al. 2018 (arXiv:1712.05877), equations 1 and 12; per channel: Krishnamoorthi 2018
(arXiv:1806.08342), section 3.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hummingbird_edge.quantize.layers import Layer, find_layers
from hummingbird_edge.quantize.node import add_constant, add_node
from hummingbird_edge.quantize.ranges import Ranges

__all__ = ["Quantizer", "add_weight", "quantize", "quantize_weight"]


def quantize_weight(
    weight: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return W in 8 bits, shaped like it, and the scale (C,) of each channel along `axis`."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    scale = np.abs(weight).max(axis=others) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    q = np.rint(weight / np.expand_dims(scale, others))
    return np.clip(q, -127, 127).astype(np.int8), scale


def quantize(model: ir.Model, ranges: Ranges, keep: Collection[str] = ()) -> int:
    """Quantize the layers of `model` in place, but for those named in `keep`; returns how many.

    `ranges` has the activations of every other layer.
    """
    quantizer = Quantizer(model.graph, ranges)
    layers = [layer for layer in find_layers(model) if layer.name not in keep]
    for layer in layers:
        before, after = layer.node.outputs[0], quantizer.product(layer)
        after.type, after.shape = before.type, before.shape
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        name = before.name  # by which ranges and outputs go
        before.name, after.name = f"{name}_float32", name
    RemoveUnusedNodesPass()(model)
    return len(layers)


def add_weight(
    graph: ir.Graph, name: str, weight: NDArray[np.float32], axis: int, reader: ir.Node
) -> ir.Value:
    """Add a weight in 8 bits for the node `reader`; returns it as the node reads it."""
    q, scale = quantize_weight(weight, axis)
    inputs = [
        add_constant(graph, f"{name}_q", q),
        add_constant(graph, f"{name}_scale", scale),
        add_constant(graph, f"{name}_zero", np.zeros(scale.shape, np.int8)),
    ]
    return add_node(graph, "DequantizeLinear", inputs, f"{name}_dq", reader, axis=axis)


@dataclass
class Quantizer:
    """Adds quantized products to a graph; an activation that several layers read is quantized once,
    so layers come in the order of their nodes."""

    graph: ir.Graph
    ranges: Ranges
    _done: dict[str, ir.Value] = field(default_factory=dict)

    def product(self, layer: Layer) -> ir.Value:
        """Return what `layer` computes in 8 bits, from a new node beside its own."""
        if len(layer.sides) > 1:
            return self._sum_of_sides(layer)
        (side,), bias = layer.sides, layer.node.inputs[2:]
        return self._product(layer, layer.name, side, layer.weight(), bias)

    def _sum_of_sides(self, layer: Layer) -> ir.Value:
        """Conv(concat(a, b), W) = Conv(a, W_a) + Conv(b, W_b), the bias with the first."""
        (a, b), bias = layer.sides, layer.node.inputs[2:]
        width = len(self.ranges.extremes[str(a.name)][0])
        w_a, w_b = np.split(layer.weight(), [width], axis=1)
        sides = [
            self._product(layer, f"{layer.name}_side_a", a, w_a, bias),
            self._product(layer, f"{layer.name}_side_b", b, w_b, ()),
        ]
        return add_node(self.graph, "Add", sides, f"{layer.name}_sum", layer.node)

    def _product(
        self,
        layer: Layer,
        name: str,
        side: ir.Value,
        weight: NDArray[np.float32],
        bias: Sequence[ir.Value | None],
    ) -> ir.Value:
        node, graph = layer.node, self.graph
        q = add_weight(graph, f"{name}_weight", weight, layer.out_axis, node)
        inputs = [self._activation(side, node), q, *bias]
        return add_node(graph, layer.kind, inputs, f"{name}_int8", node, **node.attributes)

    def _activation(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        name = str(value.name)
        if name not in self._done:
            low, high = self.ranges.of(name)
            scale = add_constant(
                self.graph, f"{name}_scale", np.array(max(-low, high, 1e-8) / 127, np.float32)
            )
            zero = add_constant(self.graph, f"{name}_zero", np.array(0, np.int8))
            q = add_node(self.graph, "QuantizeLinear", [value, scale, zero], f"{name}_q", reader)
            back = add_node(self.graph, "DequantizeLinear", [q, scale, zero], f"{name}_dq", reader)
            self._done[name] = back
        return self._done[name]
