"""Static int8 quantization: activations and weights of each layer, with fixed scales.

    q = clip(round(x / S) + Z, -128, 127)        x' = S (q - Z)

A weight has one scale S per output channel, with Z = 0 and |q| <= 127. Activations have one scale
per tensor, from the ranges that calibration saw; those of convolutions are smoothed first
(`smoothing`). QuantizeLinear and DequantizeLinear around each layer express this in the graph; ONNX
Runtime and OpenVINO fuse them into int8 products. All other nodes stay as they were.

Activations are symmetric (Z = 0): in OpenVINO, with AMX, a convolution with a zero point takes
40 % longer and a MatMul 20 %. A convolution over a skip concatenation becomes the sum of two
convolutions, one per side, so that each side has its own scale.

ONNX Runtime's `quantize_static` would do the same to a graph with float32 weights below protobuf's
2 GB; these graphs store float16 behind a Cast, in a file that other graphs share, and it has no
scale per side. `benchmarks/quantization.py` compares both.

Source: Jacob et al. 2018 (arXiv:1712.05877), equations 1 and 12; per channel: Krishnamoorthi 2018
(arXiv:1806.08342), section 3.
"""

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hummingbird_edge.quantize.layers import Layer, find_layers
from hummingbird_edge.quantize.node import add_constant, add_node
from hummingbird_edge.quantize.ranges import Ranges
from hummingbird_edge.quantize.smoothing import smoothing

__all__ = ["Quantizer", "add_weight", "quantize", "quantize_weight"]


def quantize_weight(
    weight: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return W as int8, with its shape, and the scale (C,) of each channel along `axis`."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    scale = np.abs(weight).max(axis=others) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    q = np.rint(weight / np.expand_dims(scale, others))
    return np.clip(q, -127, 127).astype(np.int8), scale


def quantize(model: ir.Model, ranges: Ranges, keep: Collection[str] = ()) -> int:
    """Quantize the layers of `model` in place, except those in `keep`; returns how many.

    `ranges` has the activations of every other layer.
    """
    layers = [layer for layer in find_layers(model) if layer.name not in keep]
    quantizer = Quantizer(model.graph, ranges, layers)
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
    """Add an int8 weight for the node `reader`; returns the dequantized value it reads."""
    q, scale = quantize_weight(weight, axis)
    inputs = [
        add_constant(graph, f"{name}_q", q),
        add_constant(graph, f"{name}_scale", scale),
        add_constant(graph, f"{name}_zero", np.zeros(scale.shape, np.int8)),
    ]
    return add_node(graph, "DequantizeLinear", inputs, f"{name}_dq", reader, axis=axis)


class Quantizer:
    """Adds quantized products to a graph. An activation that several layers read is quantized once,
    so layers must come in the order of their nodes."""

    def __init__(self, graph: ir.Graph, ranges: Ranges, layers: Sequence[Layer]) -> None:
        """`layers` are all that will be quantized: the readers of an activation share its t."""
        self.graph, self.ranges = graph, ranges
        self._done: dict[str, ir.Value] = {}
        readers: dict[str, list[NDArray[np.float32]]] = {}
        for layer in layers:
            # OpenVINO's QuantizeLinear takes a scale a channel on axis 1 alone.
            for value, weight in self._parts(layer) if layer.kind == "Conv" else ():
                readers.setdefault(str(value.name), []).append(
                    weight.reshape(*weight.shape[:2], -1)
                )
        self._t = {
            name: smoothing(ranges.largest(name), weights) for name, weights in readers.items()
        }

    def product(self, layer: Layer) -> ir.Value:
        """Return the int8 output of `layer`, from a new node next to its own.

        Conv(concat(a, b), W) = Conv(a, W_a) + Conv(b, W_b), the bias with the first.
        """
        parts, bias = self._parts(layer), layer.node.inputs[2:]
        if len(parts) == 1:
            return self._product(layer, layer.name, *parts[0], bias)
        sides = [
            self._product(layer, f"{layer.name}_side_{name}", *part, each)
            for name, part, each in zip("ab", parts, (bias, ()), strict=True)
        ]
        return add_node(self.graph, "Add", sides, f"{layer.name}_sum", layer.node)

    def _parts(self, layer: Layer) -> list[tuple[ir.Value, NDArray[np.float32]]]:
        """Return the sides of the input of `layer`, each with its part of the weight."""
        widths = [len(self.ranges.extremes[str(side.name)][0]) for side in layer.sides]
        parts = np.split(layer.weight(), np.cumsum(widths)[:-1], axis=layer.in_axis)
        return list(zip(layer.sides, parts, strict=True))

    def _product(
        self,
        layer: Layer,
        name: str,
        side: ir.Value,
        weight: NDArray[np.float32],
        bias: Sequence[ir.Value | None],
    ) -> ir.Value:
        node, graph, t = layer.node, self.graph, self._t.get(str(side.name))
        if t is not None:
            weight = weight * t[:, None, None]
        q = add_weight(graph, f"{name}_weight", weight, layer.out_axis, node)
        inputs = [self._activation(side, layer), q, *bias]
        return add_node(graph, layer.kind, inputs, f"{name}_int8", node, **node.attributes)

    def _activation(self, value: ir.Value, layer: Layer) -> ir.Value:
        name = str(value.name)
        if name not in self._done:
            self._done[name] = self._quantized(value, name, layer)
        return self._done[name]

    def _quantized(self, value: ir.Value, name: str, layer: Layer) -> ir.Value:
        """Return q S for an `activation`, whose q is x / (S t)."""
        graph, t, node = self.graph, self._t.get(name), layer.node
        scaled = self.ranges.largest(name) / (1 if t is None else t)
        scale = np.array(max(float(scaled.max()), 1e-8) / 127, np.float32)
        one = add_constant(graph, f"{name}_scale", scale)
        zero = add_constant(graph, f"{name}_zero", np.array(0, np.int8))
        steps, zeros, axis = one, zero, {}
        if t is not None:
            steps = add_constant(graph, f"{name}_scales", scale * t)
            zeros = add_constant(graph, f"{name}_zeros", np.zeros(len(t), np.int8))
            axis = {"axis": 1}
        q = add_node(graph, "QuantizeLinear", [value, steps, zeros], f"{name}_q", node, **axis)
        return add_node(graph, "DequantizeLinear", [q, one, zero], f"{name}_dq", node)
