"""The safetensors format: a JSON table of contents, then the tensors' bytes."""

import json
from pathlib import Path

import torch

from hummingbird_edge.export.mapped_tensors import MappedFile, TensorPlace
from hummingbird_edge.runtime.errors import CheckpointError

__all__ = ["read_safetensors"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: Path) -> dict[str, TensorPlace]:
    """Return where each tensor of a safetensors file lies.

    Raises `CheckpointError` where the table of contents is damaged or the file is cut short.
    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    file = MappedFile(path)
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if file.size < 8 or length > file.size - 8:
            raise CheckpointError(
                f"{path.name}: not a safetensors file, or one cut short ({file.size} bytes);"
                " download it again."
            )
        header = stream.read(length)
    try:
        table = json.loads(header)
        table.pop("__metadata__", None)
        return {name: _place(entry, file, 8 + length) for name, entry in table.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name}: its safetensors header is damaged ({type(error).__name__}: {error});"
            " download the file again."
        ) from error


def _place(entry: dict[str, list[int]], file: MappedFile, base: int) -> TensorPlace:
    dtype = _DTYPES[str(entry["dtype"])]
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    return TensorPlace(file, base + begin, end - begin, dtype, shape, _contiguous(shape))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)
