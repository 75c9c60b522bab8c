"""Attention as one node where an engine has one: its scores are never stored.

    MatMul(Transpose(q s), Transpose(k)) -> Softmax -> MatMul(Transpose(v)) -> Transpose

becomes `com.microsoft.MultiHeadAttention`, which takes q, k and v with their heads side by side, as
the projections leave them. ONNX Runtime's CPU, CUDA and DirectML providers have it; the CPU's is a
flash attention (Dao et al. 2022, arXiv:2205.14135). At 320 x 512 and 16 frames the first level's
scores are 524 million numbers, 2.1 GB in float32.

Source of the operator: ONNX Runtime's contrib operators, version 1.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hummingbird_edge.kernels.pattern import DOMAIN, only_consumer, producer, replace, scalar

__all__ = ["fuse_attention"]

HEADS_FIRST = [0, 2, 1, 3]
KEY_TRANSPOSED = [0, 2, 3, 1]


def fuse_attention(model: ir.Model) -> int:
    """Replace every attention of `kernels.attention`'s form in place; returns how many.

    Attention in another form (with a mask, or a single head over pixels) is left unchanged.
    """
    fused = sum(_fuse(model.graph, node) for node in list(model.graph) if node.op_type == "Softmax")
    if fused:
        model.graph.opset_imports[DOMAIN] = 1
        RemoveUnusedNodesPass()(model)
    return fused


def _fuse(graph: ir.Graph, softmax: ir.Node) -> bool:
    scores, mixed = producer(softmax.inputs[0], "MatMul"), only_consumer(softmax, "MatMul")
    if scores is None or mixed is None:
        return False
    query = _heads(scores.inputs[0], HEADS_FIRST)
    key = _heads(scores.inputs[1], KEY_TRANSPOSED)
    value = _heads(mixed.inputs[1], HEADS_FIRST)
    back = only_consumer(mixed, "Transpose")
    flat = None if back is None else only_consumer(back, "Reshape")
    if query is None or key is None or value is None or flat is None:
        return False
    count, scaled = query
    scale = producer(scaled, "Mul")
    factor = None if scale is None else scalar(scale.inputs[1])
    if scale is None or factor is None:
        return False
    attributes = {"num_heads": count, "scale": factor}
    node = ir.node(
        "MultiHeadAttention",
        [scale.inputs[0], key[1], value[1]],
        attributes,
        domain=DOMAIN,
        name=f"{softmax.name}_attention",
    )
    graph.insert_after(flat, node)
    replace(flat.outputs[0], node.outputs[0])
    return True


def _heads(value: ir.Value | None, permutation: list[int]) -> tuple[int, ir.Value] | None:
    """Return the number of heads and the (N, L, heads * d) value that was split into them."""
    turned = producer(value, "Transpose")
    if turned is None or list(turned.attributes["perm"].as_ints()) != permutation:
        return None
    split = producer(turned.inputs[0], "Reshape")
    count = None if split is None else _third_of_shape(split.inputs[1])
    if split is None or count is None or split.inputs[0] is None:
        return None
    return count, split.inputs[0]


def _third_of_shape(shape: ir.Value | None) -> int | None:
    """Return the third entry of a Reshape's target, where it is known."""
    if shape is None:
        return None
    if shape.const_value is not None:
        entries = shape.const_value.numpy().ravel()
        return int(entries[2]) if len(entries) == 4 else None
    joined = producer(shape, "Concat")
    if joined is None or len(joined.inputs) != 4:
        return None
    found = scalar(joined.inputs[2])
    return None if found is None else int(found)
