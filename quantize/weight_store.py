"""One file of weights for several graphs of a stage."""

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir

__all__ = ["WeightStore", "compact"]

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
            offset = _aligned(start)
            file.write(bytes(offset - start) + content)
        return offset


def _may_stay(tensor: ir.TensorProtocol) -> bool:
    return isinstance(tensor, ir.ExternalTensor) and tensor.dtype == ir.DataType.FLOAT16


def compact(folder: Path) -> None:
    """Leave in a folder's files of weights what its graphs read, and no more.

    A graph that was removed leaves its weights behind in the file that it shared: float32 ones that
    no float16 graph reads are 8 % of the default bundle at full size.
    """
    models = {graph: ir.load(graph) for graph in sorted(folder.glob("*.onnx"))}
    for path in folder.glob("*.onnx_data"):
        readers = {graph: _reading(model, path.name) for graph, model in models.items()}
        read = {span for values in readers.values() for span in values.values()}
        if not read:
            path.unlink()
        elif sum(_aligned(length) for _, length in read) < path.stat().st_size:
            moved = _rewritten(path, sorted(read))
            for graph, values in readers.items():
                for value, span in values.items():
                    value.const_value = _at(value.const_value, moved[span])
                if values:
                    ir.save(models[graph], graph)


def _reading(model: ir.Model, file: str) -> dict[ir.Value, tuple[int, int]]:
    """Return where in `file` each initializer of a graph lies: offset and length."""
    found = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and str(tensor.location) == file:
            found[value] = (tensor.offset or 0, tensor.nbytes)
    return found


def _rewritten(path: Path, spans: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Keep `spans` of a file alone, in their order; returns their new offsets."""
    partial, moved = path.with_suffix(".partial"), {}
    with path.open("rb") as source, partial.open("wb") as target:
        for offset, length in spans:
            start = _aligned(target.tell())
            source.seek(offset)
            target.write(bytes(start - target.tell()) + source.read(length))
            moved[offset, length] = start
    partial.replace(path)
    return moved


def _at(tensor: ir.TensorProtocol | None, offset: int) -> ir.ExternalTensor:
    """Return an external tensor that lies at another place of its file."""
    assert isinstance(tensor, ir.ExternalTensor)
    return ir.ExternalTensor(
        tensor.location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tuple(tensor.shape)),
        name=str(tensor.name),
        base_dir=tensor.base_dir,
    )


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT
