"""Matching nodes in a graph: helpers of the fusions and of quantization.

Matched by hand: each kernel has several exported forms (with a bias or without, weights stored as
float16 behind a Cast), which onnxscript's rewrite rules would need a pattern each for.
"""

import math

import numpy as np
import onnx_ir as ir

__all__ = ["DOMAIN", "only_consumer", "producer", "replace", "scalar", "stored_weight"]

DOMAIN = "com.microsoft"
"""The operators that ONNX Runtime adds to ONNX."""


def producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    """Return the node that computes `value` if it has this operator type."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def only_consumer(node: ir.Node, kind: str) -> ir.Node | None:
    """Return the only consumer of a node's first output if it has this operator type."""
    consumers = list(node.outputs[0].consumers())
    return consumers[0] if len(consumers) == 1 and consumers[0].op_type == kind else None


def scalar(value: ir.Value | None) -> float | None:
    """Return the scalar that `value` holds if it is constant and finite."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    found = float(np.asarray(value.const_value.numpy()).ravel()[0])
    return found if math.isfinite(found) else None


def replace(old: ir.Value, new: ir.Value) -> None:
    """Replace `old` by `new` everywhere; a graph output keeps its name and shape."""
    if old.is_graph_output():
        name, old.name = old.name, f"{old.name}_before"
        new.name, new.shape, new.type = name, old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def stored_weight(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the constant behind `value`, or behind its Cast if it is stored as float16."""
    cast = producer(value, "Cast")
    stored = value if cast is None else cast.inputs[0]
    return None if stored is None else stored.const_value
