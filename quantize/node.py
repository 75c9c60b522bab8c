"""Nodes and constants that quantization adds to a graph."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["add_constant", "add_node"]


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
