"""int8 products on CPUs that add pairs of them in 16 bits.

    sat16(a_1 w_1 + a_2 w_2),    a in [0, 255], an int8 activation plus 128,    w in [-127, 127]

CPUs without a dot-product instruction (AVX-512 VNNI, AVX-VNNI, AMX) multiply by `vpmaddubsw`, whose
sums of pairs stop at 32,767: where large values meet, a layer is wrong without a word. 255 * 64 * 2
is below that, so weights of one bit less are safe there: frames of moving shapes are 44.8 dB
from float32 instead of 34.3. Source: Intel, "Lower numerical precision deep learning inference and
training" (2018).
"""

from functools import cache
from typing import Any

import numpy as np

from hummingbird_edge.runtime.devices.packages import import_openvino

__all__ = ["halve_weights", "saturates"]

_WIDTH = 64


@cache
def saturates() -> bool:
    """Tell whether OpenVINO's int8 products on this CPU saturate, by one whose pairs would."""
    from openvino import Model, opset13

    def quantized(value: Any, low: float, levels: int) -> Any:
        ends = np.float32(low), np.float32(1)
        return opset13.fake_quantize(value, *ends, *ends, levels)

    x = opset13.parameter([1, _WIDTH], np.float32)
    weight = opset13.constant(np.ones((_WIDTH, _WIDTH), np.float32))
    product = opset13.matmul(quantized(x, -128 / 127, 256), quantized(weight, -1, 255), False, True)
    compiled = (
        import_openvino()
        .Core()
        .compile_model(Model([product], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    found = compiled(np.ones((1, _WIDTH), np.float32))[0]
    return bool(abs(found - _WIDTH).max() > 0.05 * _WIDTH)


def halve_weights(model: Any) -> int:
    """Take a bit from the int8 weights of an `openvino.Model` in place; returns how many.

    q becomes q / 2, rounded to even, and its scale S becomes 2 S. Weights under float32 arithmetic,
    in a model that quantizes no activation, stay as they are.
    """
    from openvino import Type, opset13

    nodes = model.get_ordered_ops()
    if not any(node.get_type_name() == "FakeQuantize" for node in nodes):
        return 0
    count = 0
    while nodes:
        node = nodes.pop()  # from the end, so that each weight is freed soon after it is replaced
        # DequantizeLinear is read as (Convert(q) - Z) * S.
        if node.get_type_name() != "Multiply":
            continue
        difference = node.input_value(0).get_node()
        if difference.get_type_name() != "Subtract":
            continue
        convert = difference.input_value(0).get_node()
        stored = convert.input_value(0) if convert.get_type_name() == "Convert" else None
        if stored is None or stored.get_node().get_type_name() != "Constant":
            continue
        if stored.get_element_type() != Type.i8:
            continue
        halves = np.rint(stored.get_node().get_data() / np.float32(2)).astype(np.int8)
        convert.input(0).replace_source_output(opset13.constant(halves).output(0))
        scale = opset13.multiply(node.input_value(1), np.float32(2))
        node.input(1).replace_source_output(scale.output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count
