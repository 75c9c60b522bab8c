"""INT8 weights under float32 arithmetic, for the text encoder.

    W' = S q,  q = clip(round(W / S), -127, 127), one S for every output channel or embedded token

The first token's activations are hundreds of times as large as the others': static scales would
leave the others a few levels, and the text encoder is a fiftieth of the work. OpenVINO keeps the
weights in int8; ONNX Runtime widens them when it loads.

Source: Dettmers et al. 2022 (arXiv:2208.07339) on such outliers; the scales are those of
`hummingbird_edge.quantize.static`.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hummingbird_edge.kernels.pattern import stored_weight
from hummingbird_edge.quantize.layers import find_layers
from hummingbird_edge.quantize.node import add_constant, add_node
from hummingbird_edge.quantize.static import add_weight, quantize_weight

__all__ = ["quantize_weights"]


def quantize_weights(model: ir.Model) -> int:
    """Quantize weights of products and embeddings to int8 in place; returns how many."""
    layers, tables = find_layers(model), [node for node in model.graph if _is_embedding(node)]
    for layer in layers:
        node = layer.node
        wide = add_weight(model.graph, f"{layer.name}_weight", layer.weight(), layer.out_axis, node)
        node.replace_input_with(1, wide)
    for node in tables:
        _quantize_rows(model.graph, node)
    RemoveUnusedNodesPass()(model)
    return len(layers) + len(tables)


def _is_embedding(node: ir.Node) -> bool:
    table = stored_weight(node.inputs[0]) if node.op_type == "Gather" else None
    return table is not None and len(table.shape) == 2 and table.size >= 1 << 16


def _quantize_rows(graph: ir.Graph, gather: ir.Node) -> None:
    """Look up int8 rows and their scales, so that the table itself is never widened."""
    table = stored_weight(gather.inputs[0])
    assert table is not None
    q, scale = quantize_weight(table.numpy().astype(np.float32), 0)
    name, ids = str(gather.name), gather.inputs[1]
    rows = add_node(
        graph, "Gather", [add_constant(graph, f"{name}_q", q), ids], f"{name}_rows", gather
    )
    scales = add_constant(graph, f"{name}_scale", scale[:, None])
    scales = add_node(graph, "Gather", [scales, ids], f"{name}_scales", gather)
    wide = add_node(graph, "Cast", [rows], f"{name}_wide", gather, to=int(ir.DataType.FLOAT))
    product = add_node(graph, "Mul", [wide, scales], f"{name}_dq", gather)
    gather.outputs[0].replace_all_uses_with(product)
