"""The two roofs of the roofline model, measured: peak FLOP/s and memory bandwidth."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.engines.loading import open_session

if TYPE_CHECKING:
    import onnx

__all__ = ["memory_bandwidth", "peak_flops"]

_SIDE, _CHAIN, _COPY_BYTES, _TRIES = 2048, 4, 1 << 28, 7
_OPSET = 18


def peak_flops(backend: Backend) -> float:
    """Return the FLOP/s of a chain of products of square matrices, the best of several runs."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(_write_products(Path(folder), backend.graph), backend)
        x = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), np.float32)
        best_s = float("inf")
        for _ in range(_TRIES):
            started = time.perf_counter()
            session.run({"x": x})
            best_s = min(best_s, time.perf_counter() - started)
    return _CHAIN * 2 * _SIDE**3 / best_s


def memory_bandwidth() -> float:
    """Return bytes a second of a copy in memory by all cores, reads and writes counted."""
    count = usable_cores()
    sources = np.array_split(np.ones(_COPY_BYTES // 8), count)
    targets, best_s = [np.ones_like(source) for source in sources], float("inf")
    with ThreadPoolExecutor(count) as pool:  # NumPy copies without Python's lock
        for _ in range(_TRIES):
            started = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best_s = min(best_s, time.perf_counter() - started)
    return 2 * _COPY_BYTES / best_s


def _write_products(folder: Path, precision: str) -> Path:
    """Write a chain of products with weights, quantized where the graph's `precision` says so."""
    import onnx
    import onnx_ir as ir

    from hummingbird_edge.quantize.half import to_float16
    from hummingbird_edge.quantize.layers import find_layers
    from hummingbird_edge.quantize.ranges import Ranges
    from hummingbird_edge.quantize.static import quantize

    path = folder / "product.onnx"
    onnx.save(_products(), path)
    model = ir.load(path)
    if precision == Precision.INT8.graph:
        limits = np.full(1, -4.0), np.full(1, 4.0)
        ranges = Ranges({str(layer.activation.name): limits for layer in find_layers(model)})
        quantize(model, ranges, ())
    elif precision == Precision.FP16.graph:
        to_float16(model, ())
    ir.save(model, path)
    return path


def _products() -> "onnx.ModelProto":
    """Return y = x w0 w1 ..., all matrices square."""
    from onnx import TensorProto, helper, numpy_helper

    rng, shape = np.random.default_rng(1), [_SIDE, _SIDE]
    values = ["x", *(f"y{index}" for index in range(1, _CHAIN)), "y"]
    nodes = [
        helper.make_node("MatMul", [values[index], f"w{index}"], [values[index + 1]], f"p{index}")
        for index in range(_CHAIN)
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape, np.float32) / _SIDE**0.5, f"w{index}")
        for index in range(_CHAIN)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(nodes, "products", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
