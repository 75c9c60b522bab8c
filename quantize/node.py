"""Nodes and constants of a graph: those that quantization reads, and those that it adds."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["add_constant", "add_node", "node_behind", "stored_weight"]


def node_behind(value: ir.Value | None, kind: str) -> ir.Node | None:
    """Return the node that makes `value`, if it is of this kind."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def stored_weight(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the constant that `value` is, also where a Cast widens it."""
    widening = node_behind(value, "Cast")
    stored = widening.inputs[0] if widening is not None else value
    return stored.const_value if stored is not None else None


def add_node(
    graph: ir.Graph,
    kind: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    before: ir.Node | None = None,
    **attributes: Any,
) -> ir.Value:
    """Add a node `before` another, else at the end; returns its output, called `name`."""
    node = ir.node(kind, inputs, attributes, name=f"{name}_node")
    node.outputs[0].name = name
    if before is None:
        graph.append(node)
    else:
        graph.insert_before(before, node)
    return node.outputs[0]


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Add a constant, shaped like `array`."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
