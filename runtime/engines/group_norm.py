"""GroupNorm in an OpenVINO graph without a change of layout.

    y = a (x - m) + b        a = g / sqrt(var + eps)        b = beta - a (mean - m)

An exporter writes GroupNorm as InstanceNormalization of a reshaped tensor, which wants the values
of a group side by side in memory. OpenVINO's convolutions keep the channels of a pixel side by
side, so such a layer copies its input into one layout and its output into the other: a tenth of a
decoder's time in int8. As sums over the pixels of a channel and a few operations a value it runs in
the convolutions' layout.

Mean and variance are computed in float32 whatever the precision of the graph is, the variance as
E[x^2] - mean^2. m is the mean's upper 8 bits, which bfloat16 holds exactly; b has the rest of it.

Sources: Wu and He 2018 (arXiv:1803.08494), equations 1 and 3; for m: Dekker 1971, "A floating-point
technique for extending the available precision", section 5.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["keep_layout"]

_IN_FLOAT32 = """<net name="mark" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<rt_info><attribute name="precise" version="0"/></rt_info>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="y" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""
"""OpenVINO's mark of a node that lower precisions leave alone: Python has no other call for it."""
_NORMALIZED_RANK, _PICTURE_RANK, _CLIP_RANK = 3, 4, 5
_MIN_VALUES = 1 << 21
"""With fewer the copies stay in a core's cache, and cost no more than the sums."""
_SPLIT = (1 << 16) + 1
"""Multiplied by which a float32 number gives its upper 8 bits, see `_statistics`."""
_KEEP_NUMBERS = ("Reshape", "Broadcast", "Unsqueeze", "Convert")
"""Operators that give a constant another shape or type."""


@dataclass(frozen=True, slots=True)
class _GroupNorm:
    """One layer as it was found."""

    x: Any
    """(N, C, H, W), the output of a node."""
    y: Any
    """The normalized values, the output of a node: of that shape, or of a clip's, see `clip`."""
    gain: NDArray[np.float32]
    """g, (C,)."""
    bias: NDArray[np.float32]
    """beta, (C,)."""
    groups: int
    eps: float
    clip: Any = None
    """Where x is (1, C, T, HW) and its norm saw (1, C, T, H, W): the node that, after SiLU, brings
    them to x's shape again."""


@dataclass(frozen=True, slots=True)
class _Statistics:
    """The nodes that compute a layer's a and b."""

    sums: Sequence[Any]
    """Over the pixels of a channel: these give float32 by themselves."""
    others: Sequence[Any]
    center: Any
    """-m, (N, C, 1, 1)."""
    scale: Any
    """a, (N, C, 1, 1)."""
    shift: Any
    """b, (N, C, 1, 1)."""


def keep_layout(core: Any, model: Any, least: int = _MIN_VALUES) -> frozenset[str]:
    """Rewrite every GroupNorm over the last two axes of four in an `openvino.Model`, in place.

    Those of fewer values than `least`, or of sizes that are not fixed, stay.

    Returns the names of the nodes of its statistics, whose numbers have to stay float32.
    """
    mark, names = _mark(core), set[str]()
    for layer in list(_layers(model, least)):
        found = _statistics(layer)
        for node in found.others:
            for key, value in mark.items():
                node.set_rt_info(value, key)
        names.update(node.get_name() for node in (*found.sums, *found.others))
        _replace(layer, found)
    if names:
        model.validate_nodes_and_infer_types()
    return frozenset(names)


def _mark(core: Any) -> Any:
    from openvino import Tensor

    network = core.read_model(_IN_FLOAT32.encode(), Tensor(np.zeros(0, np.uint8)))
    return network.get_parameters()[0].get_rt_info()


def _layers(model: Any, least: int) -> Iterator[_GroupNorm]:
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MVN" and (layer := _layer(node, least)) is not None:
            yield layer


def _layer(mvn: Any, least: int) -> _GroupNorm | None:
    """Return the layer whose values this node normalizes; None for one of another form."""
    reshape = mvn.input_value(0).get_node()
    if reshape.get_type_name() != "Reshape" or not _has_rank(mvn.output(0), _NORMALIZED_RANK):
        return None
    found, shapes, value = list[NDArray[np.float32]](), list[Any](), mvn.output(0)
    # InstanceNormalization's own scale and offset, then those of GroupNorm.
    for kind in ("Multiply", "Add", "Reshape", "Multiply", "Add"):
        reader = _reader(value, kind)
        if reader is None:
            return None
        if kind != "Reshape":
            constant = _constant(other := _other_input(reader, value))
            if constant is None:
                return None
            found.append(constant)
            shapes.append(other.get_partial_shape())
        value = reader.output(0)
    scale, offset, gain, bias = found
    if (scale != 1).any() or (offset != 0).any():
        return None
    groups, eps = mvn.get_output_partial_shape(0)[1].get_length(), mvn.get_attributes()["eps"]
    x, clip = reshape.input_value(0), None
    if _has_rank(x, _CLIP_RANK):
        x, clip = _flat(x, gain.size), _flattened(value, gain.size)
        if x is None or clip is None:
            return None
    elif not _has_rank(x, _PICTURE_RANK) or not _has_rank(value, _PICTURE_RANK):
        return None
    shape = x.get_partial_shape()
    if shape.is_dynamic or math.prod(shape.to_shape()) < least:
        return None
    channels = shape.to_shape()[1]
    if not all(_is_by_channel(each, value, channels) for each in shapes[2:]):
        return None
    if not gain.size == bias.size == channels:  # one number that is spread over all
        return None
    return _GroupNorm(x, value, gain, bias, groups, eps, clip)


def _flat(clip: Any, channels: int) -> Any:
    """Return the (1, C, T, HW) that a (1, C, T, H, W) was; None where it was none."""
    node = clip.get_node()
    value = node.input_value(0) if node.get_type_name() == "Reshape" else None
    return value if value is not None and _is_flat(value, channels) else None


def _flattened(clip: Any, channels: int) -> Any:
    """Return the node that makes (1, C, T, HW) of SiLU of (1, C, T, H, W); None for others."""
    readers = {node.get_type_name(): node for node in _readers(clip)}
    if set(readers) != {"Sigmoid", "Multiply"}:
        return None
    reshape = _reader(readers["Multiply"].output(0), "Reshape")
    factors = {
        port.get_source_output().get_node().get_name() for port in readers["Multiply"].inputs()
    }
    is_silu = factors == {clip.get_node().get_name(), readers["Sigmoid"].get_name()}
    is_flat = reshape is not None and _is_flat(reshape.output(0), channels)
    return reshape if is_silu and is_flat else None


def _is_flat(value: Any, channels: int) -> bool:
    shape = value.get_partial_shape()
    return _has_rank(value, _PICTURE_RANK) and shape[0] == 1 and shape[1] == channels


def _reader(value: Any, kind: str) -> Any:
    """Return the node that reads `value`, if it is the only one that computes and of that kind."""
    readers = _readers(value)
    is_only = len(readers) == 1 and readers[0].get_type_name() == kind
    return readers[0] if is_only else None


def _readers(value: Any) -> list[Any]:
    """Return the nodes that compute with `value`."""
    nodes = (port.get_node() for port in value.get_target_inputs())
    return [node for node in nodes if node.get_type_name() != "ShapeOf"]


def _other_input(node: Any, value: Any) -> Any:
    first, second = node.input_value(0), node.input_value(1)
    return second if first.get_node().get_name() == value.get_node().get_name() else first


def _constant(value: Any) -> NDArray[np.float32] | None:
    """Return the numbers of a constant, flat, whatever shape it is brought to; None for others."""
    node = value.get_node()
    while node.get_type_name() in _KEEP_NUMBERS:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    return np.asarray(node.get_data(), np.float32).reshape(-1)


def _is_by_channel(shape: Any, value: Any, channels: int) -> bool:
    """Tell whether a constant of `shape` has one number for each channel of `value`."""
    known = value.get_partial_shape().rank
    if shape.is_dynamic or known.is_dynamic:
        return False
    rank = known.get_length()
    whole = (1,) * (rank - len(shape)) + tuple(shape.to_shape())
    return bool(whole == (1, channels, *(1,) * (rank - 2)))


def _has_rank(value: Any, rank: int) -> bool:
    known = value.get_partial_shape().rank
    return bool(known.is_static and known.get_length() == rank)


def _statistics(layer: _GroupNorm) -> _Statistics:
    """Return the nodes of mean, variance, -m, a and b.

    Opposite numbers are computed apart: OpenVINO replaces Subtract, Divide, Sqrt, and sums with
    something times -1, by other nodes, which have no mark.
    """
    from openvino import opset13 as ops

    def integers(*numbers: int) -> Any:
        return ops.constant(np.array(numbers, np.int64))

    nodes = list[Any]()

    def add(one: Any, other: Any) -> Any:
        nodes.append(ops.add(one, other))
        return nodes[-1]

    def times(one: Any, other: Any) -> Any:
        nodes.append(ops.multiply(one, other))
        return nodes[-1]

    def reshaped(value: Any, *shape: int) -> Any:
        nodes.append(ops.reshape(value, integers(*shape), True))
        return nodes[-1]

    def averaged(value: Any) -> Any:
        nodes.append(ops.reduce_mean(value, integers(2), True))
        return nodes[-1]

    channels, groups = layer.gain.size, layer.groups
    parted, joined = (0, groups, channels // groups, 1), (0, channels, 1, 1)
    mean_of_channel = ops.reduce_mean(layer.x, integers(2, 3), True)
    norm_of_channel = ops.reduce_l2(layer.x, integers(2, 3), True)
    means, norms = reshaped(mean_of_channel, *parted), reshaped(norm_of_channel, *parted)
    mean, opposite = averaged(means), averaged(times(means, np.float32(-1)))
    pixels = math.prod(layer.x.get_shape()[2:])
    square = times(averaged(times(norms, norms)), np.float32(1 / pixels))
    variance = add(square, times(mean, opposite))
    variance = ops.maximum(variance, np.float32(0))  # rounding may leave less
    deviation = ops.power(add(variance, np.float32(layer.eps)), np.float32(-0.5))
    nodes += [variance, deviation]

    wide, opposite_wide = times(mean, np.float32(_SPLIT)), times(opposite, np.float32(_SPLIT))
    upper = add(wide, add(opposite_wide, mean))
    opposite_upper = add(opposite_wide, add(wide, opposite))
    gain, bias = (ops.constant(n.reshape(1, groups, -1, 1)) for n in (layer.gain, layer.bias))
    scale = times(deviation, gain)
    shift = add(times(add(opposite, upper), scale), bias)
    center = add(opposite_upper, np.zeros((1, groups, channels // groups, 1), np.float32))
    sums = (mean_of_channel, norm_of_channel)
    small = (reshaped(each, *joined) for each in (center, scale, shift))
    return _Statistics(sums, nodes, *small)


def _replace(layer: _GroupNorm, found: _Statistics) -> None:
    from openvino import opset13 as ops

    centered = ops.add(layer.x, found.center)
    y, old = ops.add(ops.multiply(centered, found.scale), found.shift), layer.y
    if layer.clip is not None:
        y, old = ops.multiply(y, ops.sigmoid(y)), layer.clip.output(0)
        # Has no effect where sizes are known, and the engine then removes it.
        y = ops.reshape(y, layer.clip.input_value(1), True)
    for port in list(old.get_target_inputs()):
        port.replace_source_output(y.output(0))
