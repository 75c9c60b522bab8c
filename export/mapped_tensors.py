"""Tensors that stay in the file they are published in, made one at a time as they are asked for."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from hummingbird_edge.runtime.errors import CheckpointError

__all__ = ["MappedFile", "MappedTensors", "TensorPlace"]


_MAX_SHARING = 4
"""A weight may have two or three names, but not thousands: each can become a copy."""


class MappedFile:
    """Map one file privately, on first use, so that its pages are the system's to drop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._storage: torch.UntypedStorage | None = None

    def bytes_at(self, start: int, size: int) -> torch.UntypedStorage:
        """Return `size` bytes from `start` as a storage that shares the mapping."""
        if self._storage is None:
            try:
                self._storage = _map(self.path, self.size)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{self.path.name}: the file cannot be mapped into memory"
                    f" ({str(error).splitlines()[0]}); check that it is still there and readable"
                ) from error
        return cast(torch.UntypedStorage, self._storage[start : start + size])


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Say where a tensor lies: a span of bytes in a file, and how to view it.

    `start` and `nbytes` are the storage's span in bytes; `offset` and `stride` count elements.
    """

    file: MappedFile
    start: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def problem(self) -> str | None:
        """Return what is wrong with the place, or None where every element lies in the file."""
        if len(self.shape) != len(self.stride) or len(self.shape) > 16:
            return f"has {len(self.shape)} sizes and {len(self.stride)} strides"
        numbers = (self.start, self.nbytes, self.offset, *self.shape, *self.stride)
        if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
            return "has a negative or impossible size, offset or stride"
        if self.start + self.nbytes > self.file.size:
            return f"ends at byte {self.start + self.nbytes} of a file of {self.file.size}"
        count = math.prod(self.shape)
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((size - 1) * step for size, step in steps)
        if count and (last + 1) * self.dtype.itemsize > self.nbytes:
            return f"reaches element {last} of a storage of {self.nbytes} bytes"
        # A stride of 0 could otherwise turn one byte into more elements than any memory holds.
        if self.bytes > self.file.size:
            return f"has {count} elements, more than its file holds"
        return None

    def view(self) -> torch.Tensor:
        """Return the tensor; it shares the file's mapping unless the file misaligns it."""
        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        storage = self.file.bytes_at(self.start, self.nbytes)
        if self.start % self.dtype.itemsize:
            storage = cast(torch.UntypedStorage, storage.clone())
        made = torch.empty(0, dtype=self.dtype)
        return made.set_(storage, self.offset, self.shape, self.stride)


class MappedTensors(Mapping[str, torch.Tensor]):
    """Give tensors by name, each a view of the mapped file made when it is asked for.

    Raises `CheckpointError` at once where a place does not fit its file.
    """

    def __init__(self, places: Mapping[str, TensorPlace]) -> None:
        self._places = dict(places)
        named = 0
        for name, place in self._places.items():
            if problem := place.problem():
                raise CheckpointError(
                    f"{place.file.path.name}: tensor '{name}' {problem}; the file is damaged or"
                    " hostile, so get it again from its publisher"
                )
            named += place.bytes
            if named > _MAX_SHARING * place.file.size:
                raise CheckpointError(
                    f"{place.file.path.name}: its tensors are views of one another, all together"
                    f" more than {_MAX_SHARING} times the file; save them again as tensors of"
                    " their own"
                )

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._places[name].view()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own would make the tensor to find out


def _map(path: Path, size: int) -> torch.UntypedStorage:
    storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    return cast(torch.UntypedStorage, storage)
