"""float16 weights and activations, for GPUs, with islands of float32 where they are needed.

    |x| <= 65504, steps of 2^-10 relative to x

The angles of the embeddings, up to their sine and cosine, always stay in float32: in float16 the
spacing at timestep 999 is 0.5. So do nodes that write or read values near the largest float16,
which calibration finds (`hummingbird_edge.quantize.peaks`). Normalizations and softmaxes need no
island: DirectML, WebGPU and OpenVINO accumulate in float32 (57 dB on DirectML, `tests/directml`).

`onnxruntime.transformers.float16` would copy all weights into one protobuf, limited to 2 GB, and
lose the file that graphs share; here float16 weights that are already stored are read as they are.

Source: IEEE 754-2019, binary16.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hummingbird_edge.kernels.pattern import producer
from hummingbird_edge.quantize.node import add_constant, add_node

__all__ = ["LARGEST", "leading_to_angles", "to_float16"]

LARGEST = float(np.finfo(np.float16).max)
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_NO_FLOATS = ("Shape", "Size", "Equal", "Less", "Greater")
"""Operators that make integers or truths of floats."""
_FIRST_ONLY = ("Resize",)
"""Operators whose other inputs are scales, in float32 whatever the rest is."""


def leading_to_angles(graph: ir.Graph) -> set[str]:
    """Return the names of all sines and cosines, and of the nodes they depend on."""
    found, pending = set[str](), [n for n in graph if n.op_type in ("Sin", "Cos")]
    while pending:
        node = pending.pop()
        if str(node.name) not in found:
            found.add(str(node.name))
            sources = (value.producer() for value in node.inputs if value is not None)
            pending += [source for source in sources if source is not None]
    return found


def to_float16(model: ir.Model, islands: Collection[str] = ()) -> int:
    """Turn `model` into float16 in place, between inputs and outputs that stay float32.

    Nodes named in `islands` compute in float32. Returns the number of float32 nodes, angles
    included.
    """
    exact = leading_to_angles(model.graph) | set(islands)
    rewrite = _Rewrite(model.graph)
    kept = sum(rewrite.node(node, str(node.name) in exact) for node in list(model.graph))
    for index, output in enumerate(model.graph.outputs):
        rewrite.output(index, output)
    RemoveUnusedNodesPass()(model)
    return kept


@dataclass
class _Rewrite:
    """One pass over a graph in order; each value is cast at most once in each direction."""

    graph: ir.Graph
    kinds: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)

    def node(self, node: ir.Node, is_exact: bool) -> bool:
        """Cast the floats that a node reads to one type; returns whether that is float32."""
        kind = _FLOAT if is_exact else _HALF
        if node.op_type == "Cast" and node.attributes["to"].as_int() in (_FLOAT, _HALF):
            if self._kind(node.inputs[0]) is not None:
                self.kinds[node.outputs[0]] = _FLOAT  # a stored weight, widened
                return False
            node.attributes["to"] = ir.AttrInt64("to", int(kind))
            self.kinds[node.outputs[0]] = kind
            return is_exact
        floats = [i for i, value in enumerate(node.inputs) if self._kind(value) is not None]
        if not floats:
            return False
        for index in floats[:1] if node.op_type in _FIRST_ONLY else floats:
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, self._as(value, kind, node))
        for value in () if node.op_type in _NO_FLOATS else node.outputs:
            self.kinds[value] = kind
            value.type = ir.TensorType(kind)
        return is_exact

    def output(self, index: int, value: ir.Value) -> None:
        """Cast a graph output back to float32, under its own name."""
        if self._kind(value) == _HALF:
            name, shape = value.name, value.shape
            value.name = f"{name}_float16"
            wide = add_node(self.graph, "Cast", [value], str(name), to=int(_FLOAT))
            wide.type, wide.shape = ir.TensorType(_FLOAT), shape
            self.graph.outputs[index] = wide

    def _kind(self, value: ir.Value | None) -> ir.DataType | None:
        """Return float32 or float16, or None for other types."""
        if value is None:
            return None
        if value in self.kinds:
            return self.kinds[value]
        constant = value.const_value
        dtype = value.dtype if constant is None else constant.dtype
        is_source = constant is not None or value.is_graph_input()
        return dtype if is_source and dtype in (_FLOAT, _HALF) else None

    def _as(self, value: ir.Value, kind: ir.DataType, reader: ir.Node) -> ir.Value:
        """Return `value` as `kind`: itself, a stored weight, a constant, or a Cast."""
        if self._kind(value) == kind:
            return value
        if (value, kind) not in self.casts:
            self.casts[value, kind] = self._converted(value, kind, reader)
        return self.casts[value, kind]

    def _converted(self, value: ir.Value, kind: ir.DataType, reader: ir.Node) -> ir.Value:
        widening = producer(value, "Cast")
        if widening is not None and self._kind(widening.inputs[0]) == kind:
            assert widening.inputs[0] is not None
            return widening.inputs[0]
        name = f"{value.name}_{kind.name.lower()}"
        if value.const_value is not None and kind == _HALF:
            # Minus infinity, which masks, becomes the lowest number: NaN comes of infinities.
            numbers = np.clip(value.const_value.numpy(), -LARGEST, LARGEST)
            return add_constant(self.graph, name, numbers.astype(np.float16))
        return add_node(self.graph, "Cast", [value], name, reader, to=int(kind))
