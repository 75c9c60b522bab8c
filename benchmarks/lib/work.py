"""What a graph has to do: operations and numbers moved, from the graph itself, its sizes fixed.

Operations are those of convolutions and products, a multiplication and an addition counted as two;
the products of activations with each other, attention's two, apart. Moved are what cannot be
avoided: every weight once, of a table the rows that are read, every activation of layers with
weights read and written once. Attention's own scores need not leave the cache.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

__all__ = ["Work", "work_of"]

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Work:
    """Of one run of a graph."""

    operations: float
    """Of layers with weights."""
    attention: float
    """Operations between activations."""
    weights: float
    """How many numbers."""
    activations: float

    def bytes(self, width: int) -> float:
        """Return what has to be moved where a number is `width` bytes."""
        return width * (self.weights + self.activations)


def work_of(graph: Path, sizes: Mapping[str, int]) -> Work:
    """Return the work of one run of the graph at `graph`, its free axes set to `sizes`.

    Raises ValueError where a size of a layer does not follow from these.
    """
    model = onnx.load(graph, load_external_data=False)
    stored = _stored(model)
    tables = {stored.get(n.input[0]) for n in model.graph.node if n.op_type == "Gather"}
    whole = (weight for weight in model.graph.initializer if weight.name not in tables)
    weights = sum(math.prod(weight.dims) for weight in whole)
    shapes = _shapes(model, sizes)
    operations = attention = activations = 0.0
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in stored:
            weights += math.prod(shapes[node.output[0]])
        if node.op_type not in _PRODUCTS:
            continue
        out, first, second = (shapes[name] for name in (node.output[0], *node.input[:2]))
        count = _operations(node, out, first, second)
        if node.input[1] in stored:
            operations += count
            activations += math.prod(first) + math.prod(out)
        else:
            attention += count
    return Work(operations, attention, float(weights), activations)


def _operations(node: onnx.NodeProto, *shapes: tuple[int, ...]) -> float:
    """Return the multiplications and additions of a product."""
    out, first, second = shapes
    if node.op_type == "Conv":
        return 2 * math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # each input goes to as many outputs
        return 2 * math.prod(first) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    depth = first[-2] if node.op_type == "Gemm" and transposed else first[-1]
    return 2 * math.prod(out) * depth


def _shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    # Weights lie in a file of their own that is not read: their shapes are enough.
    far = [w for w in model.graph.initializer if w.data_location == onnx.TensorProto.EXTERNAL]
    for weight in far:
        value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(value)
        model.graph.initializer.remove(weight)
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in sizes:
                axis.dim_value = sizes[axis.dim_param]
    known = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    values = [*known.graph.value_info, *known.graph.input, *known.graph.output]
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    shapes |= {weight.name: tuple(weight.dims) for weight in known.graph.initializer}
    shapes |= {weight.name: tuple(weight.dims) for weight in far}
    needed = {
        name
        for node in model.graph.node
        if node.op_type in _PRODUCTS
        for name in (node.output[0], *node.input[:2])
    }
    unknown = [name for name in needed if 0 in shapes.get(name, (0,))]
    if unknown:
        raise ValueError(f"the shapes of {len(unknown)} values do not follow from {dict(sizes)}")
    return shapes


def _stored(model: onnx.ModelProto) -> dict[str, str]:
    """Return the weights' names by their own, and by those of what widens them."""
    stored = {weight.name: weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    return stored
