"""One file of weights for several graphs of a stage."""

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

__all__ = ["WeightStore"]

_MIN_BYTES = 256
"""Smaller constants lie in the graph itself."""
_ALIGNMENT = 64


class WeightStore:
    """Writes the tensors of graphs to one file, identical ones once.

    float16 tensors that are already in a file stay there; the few float32 ones of a float16 graph
    are copied, or they alone would keep the file of all float32 weights.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[bytes, int] = {}

    def save(self, model: ir.Model, graph: Path) -> None:
        """Write `model` as the file `graph`, which is in the folder of the store."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or _may_stay(tensor):
                continue
            if tensor.nbytes >= _MIN_BYTES:
                value.const_value = self._stored(tensor)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(tensor.numpy().copy(), name=value.name)
        ir.save(model, graph)

    def _stored(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        content = np.ascontiguousarray(tensor.numpy()).tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._offsets:
            self._offsets[key] = self._append(content)
        return ir.ExternalTensor(
            self._path.name,
            self._offsets[key],
            len(content),
            tensor.dtype,
            shape=ir.Shape(tuple(tensor.numpy().shape)),
            name=str(tensor.name),
            base_dir=self._path.parent,
        )

    def _append(self, content: bytes) -> int:
        with self._path.open("ab") as file:
            start = file.tell()
            offset = -(-start // _ALIGNMENT) * _ALIGNMENT
            file.write(bytes(offset - start) + content)
        return offset


def _may_stay(tensor: ir.TensorProtocol) -> bool:
    return isinstance(tensor, ir.ExternalTensor) and tensor.dtype == ir.DataType.FLOAT16
