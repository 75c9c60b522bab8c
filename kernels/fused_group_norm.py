"""GroupNorm, with the SiLU after it, as DirectML's one node.

    Reshape -> InstanceNormalization -> Reshape -> Mul -> Add [-> Sigmoid -> Mul]

or, from opset 21 on, GroupNormalization [-> Sigmoid -> Mul], becomes `com.microsoft.GroupNorm`,
which DirectML computes as one normalization with scale, bias and activation. It takes channels
last, (N, H, W, C), whatever its attribute says: any (N, C, ...) is reshaped to (N, C, L, 1) and
transposed. ONNX Runtime's CPU has no such kernel.

Sources: `kernels.group_norm` for the maths; ONNX Runtime's contrib operators, version 1.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hummingbird_edge.kernels.pattern import DOMAIN, only_consumer, producer, replace, stored_weight

__all__ = ["fuse_group_norm"]

CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """A GroupNorm as it stands in a graph."""

    x: ir.Value
    scale: ir.Value
    bias: ir.Value
    channels: int
    groups: int
    epsilon: float
    last: ir.Node
    """The node that computes the result."""


def fuse_group_norm(model: ir.Model) -> int:
    """Replace every GroupNorm of the exporter's forms in place; returns how many."""
    fused = sum(_fuse(model.graph, node) for node in list(model.graph))
    if fused:
        model.graph.opset_imports[DOMAIN] = 1
        RemoveUnusedNodesPass()(model)
    return fused


def _fuse(graph: ir.Graph, node: ir.Node) -> bool:
    norm = _find(node)
    if norm is not None:
        _replace(graph, norm)
    return norm is not None


def _find(node: ir.Node) -> GroupNorm | None:
    if node.op_type == "GroupNormalization":
        x, scale, bias = node.inputs
        groups, last = node.attributes["num_groups"].as_int(), node
    elif node.op_type == "InstanceNormalization":
        grouped, back = producer(node.inputs[0], "Reshape"), only_consumer(node, "Reshape")
        scaled = None if back is None else only_consumer(back, "Mul")
        shifted = None if scaled is None else only_consumer(scaled, "Add")
        target = None if grouped is None else grouped.inputs[1]
        if grouped is None or scaled is None or shifted is None or target is None:
            return None
        if target.const_value is None or target.const_value.size != 3:
            return None
        x, scale, bias = grouped.inputs[0], scaled.inputs[1], shifted.inputs[1]
        groups, last = int(target.const_value.numpy()[1]), shifted
    else:
        return None
    stored = stored_weight(scale)
    if x is None or scale is None or bias is None or stored is None:
        return None
    epsilon = node.attributes["epsilon"].as_float()
    return GroupNorm(x, scale, bias, stored.size, groups, epsilon, last)


def _replace(graph: ir.Graph, norm: GroupNorm) -> None:
    silu = _silu_after(norm.last)
    attributes = {
        "groups": norm.groups,
        "epsilon": norm.epsilon,
        "activation": int(silu is not None),
        "channels_last": 1,
    }
    pixels = _constant(graph, f"pixels_of_{norm.channels}_channels", [0, norm.channels, -1, 1])
    one_axis = _constant(graph, "one_axis", [-1])
    nodes: list[ir.Node] = []

    def add(kind: str, inputs: list[ir.Value], domain: str = "", **options: object) -> ir.Value:
        name = f"{norm.last.name}_{kind}_{len(nodes)}"
        nodes.append(ir.node(kind, inputs, options, domain=domain, name=name))  # type: ignore[arg-type]
        return nodes[-1].outputs[0]

    x = add("Transpose", [add("Reshape", [norm.x, pixels])], perm=CHANNELS_LAST)
    scale, bias = (add("Reshape", [value, one_axis]) for value in (norm.scale, norm.bias))
    y = add("GroupNorm", [x, scale, bias], DOMAIN, **attributes)
    y = add("Transpose", [y], perm=CHANNELS_FIRST)
    y = add("Reshape", [y, add("Shape", [norm.x])])
    last = silu or norm.last
    graph.insert_after(last, nodes)
    replace(last.outputs[0], y)


def _silu_after(node: ir.Node) -> ir.Node | None:
    """Return the product of a node's output with its own Sigmoid, where nothing else reads it."""
    readers = list(node.outputs[0].consumers())
    gates = [reader for reader in readers if reader.op_type == "Sigmoid"]
    product = only_consumer(gates[0], "Mul") if len(gates) == 1 else None
    return product if product is not None and {*readers} == {gates[0], product} else None


def _constant(graph: ir.Graph, name: str, entries: list[int]) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(entries, np.int64), name=name)
        graph.register_initializer(ir.Value(name=name, const_value=tensor))
    return graph.initializers[name]
