"""What surrounds a node in a graph: how fusions and quantization recognise what they replace.

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
    """Return the node that computes `value`, where it is of this kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def only_consumer(node: ir.Node, kind: str) -> ir.Node | None:
    """Return the only reader of a node's first output, where it is of this kind."""
    consumers = list(node.outputs[0].consumers())
    return consumers[0] if len(consumers) == 1 and consumers[0].op_type == kind else None


def scalar(value: ir.Value | None) -> float | None:
    """Return the one number that `value` holds, where it is constant and finite."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    found = float(np.asarray(value.const_value.numpy()).ravel()[0])
    return found if math.isfinite(found) else None


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`; an output of the graph keeps its name and shape."""
    if old.is_graph_output():
        name, old.name = old.name, f"{old.name}_before"
        new.name, new.shape, new.type = name, old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def stored_weight(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the weight that `value` is; stored as float16 it is cast before use."""
    cast = producer(value, "Cast")
    stored = value if cast is None else cast.inputs[0]
    return None if stored is None else stored.const_value
