"""A safetensors file, read tensor by tensor through the format's own library."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hummingbird_edge.runtime.errors import CheckpointError

__all__ = ["SafetensorsFile"]


_MAX_HEADER = 4 << 20
"""Bytes of the list of tensors, which becomes twenty times as many; 40,000 tensors' need."""


class SafetensorsFile(Mapping[str, torch.Tensor]):
    """The tensors of a file by their names, each read when it is used."""

    def __init__(self, path: Path) -> None:
        """Open `path`; raises CheckpointError where it is damaged or cut short."""
        self._name = path.name
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if _MAX_HEADER < header <= path.stat().st_size:
            raise CheckpointError(
                f"{path.name}: its list of tensors has {header} bytes, more than {_MAX_HEADER}: "
                f"save the tensors in several files"
            )
        try:
            self._file = safe_open(path, framework="pt")
            self._names = dict.fromkeys(self._file.keys())  # type: ignore[no-untyped-call]
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(
                f"{path.name}: not a safetensors file, or one that is damaged or cut short "
                f"({error}): download it again"
            ) from error

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        try:
            tensor: torch.Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        except (SafetensorError, RuntimeError, AttributeError) as error:  # a type PyTorch lacks
            raise CheckpointError(
                f"{self._name}: tensor {name!r} cannot be read ({error}): download the file again"
            ) from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own would read the tensor to find out
