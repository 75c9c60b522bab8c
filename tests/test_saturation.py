"""int8 products of large values are right on every CPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session

pytest.importorskip("openvino")
WIDTH = 64


def quantized_product(path: Path) -> None:
    """Write x W with both in int8 by scales of 1/127, W all ones, at the end of its range."""
    scale = numpy_helper.from_array(np.array(1 / 127, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    weight = numpy_helper.from_array(np.full((WIDTH, WIDTH), 127, np.int8), "q")
    scales = numpy_helper.from_array(np.full(WIDTH, 1 / 127, np.float32), "scales")
    zeros = numpy_helper.from_array(np.zeros(WIDTH, np.int8), "zeros")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_s"]),
        helper.make_node("DequantizeLinear", ["q", "scales", "zeros"], ["w"], axis=1),
        helper.make_node("MatMul", ["x_s", "w"], ["y"]),
    ]
    shape = [4, WIDTH]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [scale, zero, weight, scales, zeros],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)


@pytest.mark.parametrize("value", [1.0, -1.0, 0.5])
def test_pairs_of_large_products_do_not_saturate(tmp_path: Path, value: float) -> None:
    """Without VNNI the sum of two stopped at 32,767: 0.5 came out instead of 64."""
    quantized_product(tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", Backend.parse("openvino", "int8"))
    found = session.run({"x": np.full((4, WIDTH), value, np.float32)})
    np.testing.assert_allclose(found, value * WIDTH, rtol=0.02)
