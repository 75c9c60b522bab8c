"""The layers of a graph that can be quantized: products with a weight, which are nearly all of the
work.

Softmaxes, normalizations and the products between activations inside of attention stay as they are:
in int8 they gain nothing on the engines measured (OpenVINO 2026.4), and lose the most.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hummingbird_edge.kernels.pattern import producer, stored_weight

__all__ = ["Layer", "find_layers"]

KINDS = ("Conv", "Gemm", "MatMul")
_SMALLEST = 2048
"""Numbers of a weight from which a layer is worth it."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One product of activations x and a constant weight W."""

    node: ir.Node

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)

    @property
    def kind(self) -> str:
        """`Conv`, `Gemm` or `MatMul`."""
        return self.node.op_type

    @property
    def activation(self) -> ir.Value:
        """Its input: (N, C, H, W) for a convolution, else (..., C)."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def in_width(self) -> int | None:
        """Channels of its input rows (..., C); None for a convolution (axis 1)."""
        return None if self.kind == "Conv" else self.weight_shape[self.in_axis]

    @property
    def out_axis(self) -> int:
        """The axis of its weight that becomes channels of the output."""
        transposed = "transB" in self.node.attributes and self.node.attributes["transB"].as_int()
        return 0 if self.kind == "Conv" or transposed else len(self.weight_shape) - 1

    @property
    def in_axis(self) -> int:
        """The axis of its weight that runs over input channels."""
        return 1 if self.kind == "Conv" else 1 - self.out_axis

    @property
    def sides(self) -> tuple[ir.Value, ...]:
        """The activations whose ranges it needs: two if its input is a skip concatenation."""
        concat = producer(self.activation, "Concat")
        if self.kind != "Conv" or concat is None or len(concat.inputs) != 2:
            return (self.activation,)
        return tuple(value for value in concat.inputs if value is not None)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of W, as the graph holds it."""
        return tuple(self._stored.shape.numpy())

    def weight(self) -> NDArray[np.float32]:
        """Return W in float32, as the graph holds it: a copy."""
        return self._stored.numpy().astype(np.float32)

    @property
    def _stored(self) -> ir.TensorProtocol:
        stored = stored_weight(self.node.inputs[1])
        assert stored is not None
        return stored


def find_layers(model: ir.Model) -> list[Layer]:
    """Return the layers of `model` in the order of its nodes."""
    found = []
    for node in model.graph:
        stored = stored_weight(node.inputs[1]) if node.op_type in KINDS else None
        if stored is not None and stored.size >= _SMALLEST:
            found.append(Layer(node))
    return found
