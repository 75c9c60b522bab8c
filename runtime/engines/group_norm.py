"""GroupNorm in an OpenVINO graph without a change of layout.

    y = a x + b        a = g / sqrt(var + eps)        b = beta - mean a

An exporter writes GroupNorm as InstanceNormalization of a reshaped tensor, which wants the values
of a group side by side in memory. OpenVINO's convolutions keep the channels of a pixel side by
side, so such a layer copies its input into one layout and its output into the other: a tenth of a
decoder's time in int8. As sums over the pixels of a channel and one product a value it runs in the
convolutions' layout.

Mean and variance are computed in float32 whatever the precision of the graph is, the variance as
E[x^2] - mean^2; `a` and `b` have the precision of x.

Source: Wu and He 2018 (arXiv:1803.08494), equations 1 and 3.
"""

from collections.abc import Iterator
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


def keep_layout(core: Any, model: Any) -> frozenset[str]:
    """Rewrite every GroupNorm over the last two axes of four in an `openvino.Model`, in place.

    Returns the names of the nodes of its statistics, whose numbers have to stay float32.
    """
    mark, names = _mark(core), set[str]()
    for layer in list(_layers(model)):
        sums, rest, scale, shift = _statistics(layer)
        for node in rest:
            for key, value in mark.items():
                node.set_rt_info(value, key)
        names.update(node.get_name() for node in (*sums, *rest))
        _replace(layer, scale, shift)
    if names:
        model.validate_nodes_and_infer_types()
    return frozenset(names)


def _mark(core: Any) -> Any:
    from openvino import Tensor

    network = core.read_model(_IN_FLOAT32.encode(), Tensor(np.zeros(0, np.uint8)))
    return network.get_parameters()[0].get_rt_info()


def _layers(model: Any) -> Iterator[_GroupNorm]:
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MVN" and (layer := _layer(node)) is not None:
            yield layer


def _layer(mvn: Any) -> _GroupNorm | None:
    """Return the layer whose values this node normalizes; None for one of another form."""
    reshape = mvn.input_value(0).get_node()
    if reshape.get_type_name() != "Reshape" or not _has_rank(mvn.output(0), _NORMALIZED_RANK):
        return None
    found, value = list[NDArray[np.float32]](), mvn.output(0)
    # InstanceNormalization's own scale and offset, then those of GroupNorm.
    for kind in ("Multiply", "Add", "Reshape", "Multiply", "Add"):
        reader = _reader(value, kind)
        if reader is None:
            return None
        if kind != "Reshape":
            constant = _constant(_other_input(reader, value))
            if constant is None:
                return None
            found.append(constant)
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


def _has_rank(value: Any, rank: int) -> bool:
    known = value.get_partial_shape().rank
    return bool(known.is_static and known.get_length() == rank)


def _statistics(layer: _GroupNorm) -> tuple[list[Any], list[Any], Any, Any]:
    """Return the sums over pixels, what is computed of them, and of that a and b, (N, C, 1, 1)."""
    from openvino import opset13 as ops

    def integers(*numbers: int) -> Any:
        return ops.constant(np.array(numbers, np.int64))

    channels, groups = layer.gain.size, layer.groups
    parted, joined = integers(0, groups, channels // groups, 1), integers(0, channels, 1, 1)
    pixels, members = integers(2, 3), integers(2)
    mean, norm = ops.reduce_mean(layer.x, pixels, True), ops.reduce_l2(layer.x, pixels, True)
    nodes = list[Any]()

    def kept(node: Any) -> Any:
        nodes.append(node)
        return node

    sides = ops.gather(ops.shape_of(layer.x), pixels, integers(0))
    count = kept(ops.convert(ops.reduce_prod(sides, integers(0), True), "f32"))
    mean_of_group = kept(ops.reduce_mean(kept(ops.reshape(mean, parted, True)), members, True))
    norms = kept(ops.reshape(norm, parted, True))
    squares = kept(ops.reduce_mean(kept(ops.multiply(norms, norms)), members, True))
    square_of_mean = kept(ops.multiply(mean_of_group, mean_of_group))
    variance = kept(ops.subtract(kept(ops.divide(squares, count)), square_of_mean))
    variance = kept(ops.maximum(variance, np.float32(0)))  # rounding may leave less
    deviation = kept(ops.sqrt(kept(ops.add(variance, np.float32(layer.eps)))))
    gain, bias = (n.reshape(1, groups, -1, 1) for n in (layer.gain, layer.bias))
    scale = kept(ops.divide(ops.constant(gain), deviation))
    shift = kept(ops.subtract(ops.constant(bias), kept(ops.multiply(mean_of_group, scale))))
    scale, shift = (kept(ops.reshape(each, joined, True)) for each in (scale, shift))
    return [mean, norm], nodes, scale, shift


def _replace(layer: _GroupNorm, scale: Any, shift: Any) -> None:
    from openvino import opset13 as ops

    y, old = ops.add(ops.multiply(layer.x, scale), shift), layer.y
    if layer.clip is not None:
        y, old = ops.multiply(y, ops.sigmoid(y)), layer.clip.output(0)
        # Has no effect where sizes are known, and the engine then removes it.
        y = ops.reshape(y, layer.clip.input_value(1), True)
    for port in list(old.get_target_inputs()):
        port.replace_source_output(y.output(0))
