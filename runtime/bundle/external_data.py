"""Which other files an ONNX graph reads its weights from.

An engine opens whatever file a graph names, so each must have its digest in the manifest. Only the
few fields that name files are read here, straight from the protobuf encoding: the package `onnx`
stays out of the runtime. Sources: onnx.proto (ModelProto.graph = 7; GraphProto.node = 1,
initializer = 5, sparse_initializer = 15; NodeProto.attribute = 5; AttributeProto.t = 5, g = 6,
tensors = 10, graphs = 11, sparse_tensor = 22, sparse_tensors = 23; SparseTensorProto.values = 1,
indices = 2; FunctionProto.node = 7; TensorProto.external_data = 13; StringStringEntryProto.key = 1,
value = 2); protobuf's wire format.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from hummingbird_edge.runtime.errors import BundleError

__all__ = ["external_files"]


_NESTED: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""What leads to the names of files: kind of message to field number to kind."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 64


def external_files(graph: Path) -> set[str]:
    """Return the locations, relative to the graph's folder, of all external tensor data.

    Raises BundleError for a file that is no protobuf message, OSError where it cannot be read.
    """
    data = memoryview(graph.read_bytes())
    try:
        return set(_locations(data, "model", 0))
    except (IndexError, ValueError) as error:
        raise BundleError(
            f"{graph} is no ONNX graph ({error}): build or copy the bundle again"
        ) from error


def _locations(data: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    for number, value in _fields(data):
        inner = _NESTED[kind].get(number)
        if inner == "entry":
            entry = {n: bytes(text) for n, text in _fields(value)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8")
        elif inner is not None:
            yield from _locations(value, inner, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and content of each field that holds bytes; the others are passed over."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire = key & 7
        if wire == _VARINT:
            _, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError("it is cut short")
            yield key >> 3, data[position : position + length]
            position += length
        else:
            raise ValueError(f"unknown wire type {wire}")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
