"""Chains of matrix products by which the runtime measures a device: a file of 1 kB each.

    python -m hummingbird_edge.kernels.products          writes them anew

A weight is one number, expanded: engines fold that into a matrix while they load the graph.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hummingbird_edge.runtime.placement.rate import CHAIN, FOLDER, SIDE

__all__ = ["products"]

_OPSET = 18


def products(precision: str) -> onnx.ModelProto:
    """Return y = x w w ... for x (`rows`, SIDE) float32, computed in a graph's `precision`."""
    number = TensorProto.FLOAT16 if precision == "float16" else TensorProto.FLOAT
    weight = np.array(1 / SIDE)
    constants = {"shape": np.array([SIDE, SIDE], np.int64)}
    nodes = list[onnx.NodeProto]()

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    if precision == "int8":
        constants |= {
            "one": np.ones((1, 1), np.int8),
            "scale": np.array(1 / SIDE, np.float32),
            "step": np.array(1 / 64, np.float32),
            "zero": np.array(128, np.uint8),
        }
        matrix = add("Expand", ["one", "shape"], "w_int8")
        matrix = add("DequantizeLinear", [matrix, "scale"], "w")
    else:
        kind = helper.tensor_dtype_to_np_dtype(number)
        constants["one"] = weight.reshape(1, 1).astype(kind)
        matrix = add("Expand", ["one", "shape"], "w")
    value = "x" if number != TensorProto.FLOAT16 else add("Cast", ["x"], "x_half", to=number)
    for index in range(CHAIN):
        if precision == "int8":
            value = add("QuantizeLinear", [value, "step", "zero"], f"q{index}")
            value = add("DequantizeLinear", [value, "step", "zero"], f"x{index}")
        value = add("MatMul", [value, matrix], f"y{index}")
    add("Cast", [value], "y", to=TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", SIDE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name="")


def main() -> None:
    """Write the graphs to where the runtime has them."""
    for precision in ("float32", "float16", "int8"):
        onnx.save(products(precision), FOLDER / f"{precision}.onnx")


if __name__ == "__main__":
    main()
