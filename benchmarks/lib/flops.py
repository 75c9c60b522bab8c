"""The FLOP count and the memory traffic of a graph, from the graph itself with its sizes fixed.

Counted are convolutions and matrix products, a multiply-add as two operations; int8 operations
count alike. Products of two activations (attention) are counted apart. The traffic is the least
there can be: every weight once, of an embedding table the rows that are read, the input and output
of every layer with weights once. Attention scores can stay in the cache.

The fewest operations are a bound, not a form that an engine runs: along each axis of a convolution
without a stride, minimal filtering takes r + 3 products for 4 outputs and r taps instead of 4 r.
Its sums are not counted. Larger tiles take fewer products and lose float32's digits. Matrix
products count as they are.

Source: Winograd 1980, "Arithmetic complexity of computations"; Lavin and Gray 2015
(arXiv:1509.09308), F(4 x 4, 3 x 3).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from hummingbird_edge.runtime.devices.packages import import_onnxruntime

__all__ = ["GraphCost", "graph_cost"]

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TILE = 4
"""Outputs of minimal filtering along an axis."""


@dataclass(frozen=True, slots=True)
class GraphCost:
    """The cost of one run of a graph."""

    layer_flops: float
    """Of layers with weights."""
    attention_flops: float
    """Of products of two activations."""
    published_flops: float
    """Of all products as the network is published, upsampling before it convolves."""
    fewest_flops: float
    """Of all products with minimal filtering: the fewest known."""
    weights: float
    """Weight elements that are read."""
    activations: float
    """Activation elements that are read and written."""

    @property
    def flops(self) -> float:
        """All operations."""
        return self.layer_flops + self.attention_flops

    def bytes(self, width: int) -> float:
        """Return the memory traffic where an element takes `width` bytes."""
        return width * (self.weights + self.activations)


def graph_cost(graph: Path, sizes: Mapping[str, int]) -> GraphCost:
    """Return the cost of one run of the graph at `graph`, its free axes set to `sizes`.

    Raises ValueError where the shape of a layer does not follow from these.
    """
    model = onnx.load(graph, load_external_data=False)
    stored = _stored_weights(model)
    shapes = _infer_shapes(model, sizes)
    shuffled = {node.input[0] for node in model.graph.node if node.op_type == "DepthToSpace"}
    layer_flops = attention_flops = published = fewest = activations = 0.0
    for node in model.graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        out, first, second = (shapes[name] for name in (node.output[0], *node.input[:2]))
        flops = _product_flops(node, out, first, second)
        published += _upsampled_flops(first, second) if node.output[0] in shuffled else flops
        fewest += flops * _filtering_share(node, second)
        if node.input[1] in stored:
            layer_flops += flops
            activations += math.prod(first) + math.prod(out)
        else:
            attention_flops += flops
    weights = _weights_read(model, stored, shapes)
    return GraphCost(layer_flops, attention_flops, published, fewest, weights, activations)


def _weights_read(
    model: onnx.ModelProto, stored: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> float:
    """Return how many weight elements one run reads: of embedding tables only some rows."""
    lookups = [n for n in model.graph.node if n.op_type == "Gather" and n.input[0] in stored]
    tables = {stored[node.input[0]] for node in lookups}
    whole = (w.dims for w in model.graph.initializer if w.name not in tables)
    rows = (shapes[node.output[0]] for node in lookups)
    return float(sum(map(math.prod, whole)) + sum(map(math.prod, rows)))


def _product_flops(node: onnx.NodeProto, *shapes: tuple[int, ...]) -> float:
    """Return the operations of one convolution or matrix product."""
    out, first, second = shapes
    if node.op_type == "Conv":
        return 2 * math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # each input element adds to as many outputs
        return 2 * math.prod(first) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    depth = first[-2] if node.op_type == "Gemm" and transposed else first[-1]
    return 2 * math.prod(out) * depth


def _upsampled_flops(x: tuple[int, ...], weight: tuple[int, ...]) -> int:
    """Return the operations of a 3 x 3 convolution of x upsampled by 2.

    `weight` (4 O, C, 2, 2) is that of `kernels.upsample_conv`: as many outputs, of 9 C products.
    """
    frames, channels, height, width = x
    return 2 * frames * height * width * weight[0] * 9 * channels


def _filtering_share(node: onnx.NodeProto, weight: tuple[int, ...]) -> float:
    """Return what share of a node's products minimal filtering needs, of its `weight`'s shape."""
    strides = [step for a in node.attribute if a.name == "strides" for step in a.ints]
    if node.op_type != "Conv" or any(step != 1 for step in strides):
        return 1.0
    return math.prod((taps + _TILE - 1) / (_TILE * taps) for taps in weight[2:])


def _infer_shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each value; raises ValueError where a product's is unknown."""
    import_onnxruntime()
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    graph = SymbolicShapeInference.infer_shapes(_fixed(model, sizes), auto_merge=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    shapes |= {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
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


def _fixed(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Return a copy with fixed sizes, external weights as inputs: their shapes suffice."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.initializer[:]
    for weight in model.graph.initializer:
        if weight.data_location == onnx.TensorProto.EXTERNAL:
            value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            fixed.graph.input.append(value)
        else:
            fixed.graph.initializer.append(weight)
    for value in fixed.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in sizes:
                axis.dim_value = sizes[axis.dim_param]
    return fixed


def _stored_weights(model: onnx.ModelProto) -> dict[str, str]:
    """Map each weight's name, and the name of its widened value, to the weight's name."""
    stored = {weight.name: weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    return stored
