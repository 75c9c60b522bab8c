"""Weights stored as float16 and widened when a graph is loaded.

Arithmetic stays float32: engines fold the Cast behind each weight while they load. This halves a
bundle on disk; a weight changes by at most 1 part in 2048. What the export computed of rounded
weights (the sums of `kernels.upsample_conv`) stays float32: rounded again, the graph would no
longer be the module that it is compared with.
"""

import numpy as np
import onnx_ir
import torch
from numpy.typing import NDArray

__all__ = ["round_to_float16", "store_as_float16"]

_SMALLEST = 256
"""Elements from which a weight is worth a Cast; scalars and axes stay as they are."""


def round_to_float16(module: torch.nn.Module) -> float:
    """Round the weights that `store_as_float16` will narrow; returns the largest change.

    Rounding before the export gives the graph and the module bit-identical weights.
    """
    largest = 0.0
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() < _SMALLEST:
                continue
            rounded = parameter.half().float()
            largest = max(largest, float((rounded - parameter).abs().max()))
            parameter.copy_(rounded)
    return largest


def store_as_float16(model: onnx_ir.Model) -> int:
    """Narrow the float32 weights of `model` that float16 holds exactly; returns how many."""
    graph = model.graph
    large = [
        value
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype == onnx_ir.DataType.FLOAT
        and value.const_value.size >= _SMALLEST
        and _is_exact(value.const_value.numpy())
    ]
    for value in large:
        name, array = str(value.name), value.const_value.numpy()  # type: ignore[union-attr]
        narrow = onnx_ir.val(
            f"{name}_float16", const_value=onnx_ir.tensor(array.astype(np.float16))
        )
        cast = onnx_ir.node("Cast", [narrow], {"to": int(onnx_ir.DataType.FLOAT)})
        cast.outputs[0].name = f"{name}_float32"
        value.replace_all_uses_with(cast.outputs[0])
        graph.insert_before(next(iter(graph)), cast)
        del graph.initializers[name]
        graph.register_initializer(narrow)
    return len(large)


def _is_exact(array: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):  # beyond float16's range it becomes infinite, and differs
        return np.array_equal(array.astype(np.float16).astype(np.float32), array)
