"""The zip archive that `torch.save` writes: one pickle, and one stored record for each storage."""

import io
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import getsizeof
from typing import TypeGuard

import torch

from hummingbird_edge.export.budget import Budget
from hummingbird_edge.export.inert_pickle import Name, Persistent, Record, read_pickle
from hummingbird_edge.export.mapped_tensors import MappedFile, TensorPlace
from hummingbird_edge.runtime.errors import CheckpointError

__all__ = ["Scalar", "read_torch_archive"]

Scalar = bool | int | float | str | tuple[bool | int | float | str, ...]

_LOCAL_HEADER = 30  # bytes of a zip's local header before the name and the extra field
_MAX_DIRECTORY = 4 << 20
"""Bytes of a zip's list of records, which becomes fifteen times as many; 40,000 tensors' need."""
_MAX_NAME = 1000
"""Letters of a tensor's dotted name, and of an attribute's text."""
_MEMBER, _LETTER = 512, 4
"""Bytes charged for a member of a module, with its place or number, and a letter of its name."""
_MAX_FACT = 64
"""Numbers of an attribute; longer lists are no configuration."""
_MAX_NUMBER = 1 << 63
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True, slots=True)
class _Archive:
    """The records of an open archive: the span of bytes of each, by name without its folder."""

    file: MappedFile
    spans: Mapping[str, tuple[int, int]]
    budget: Budget

    def read(self, name: str) -> bytes:
        start, size = self.spans[name]
        self.budget.spend(size)
        with self.file.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)


def read_torch_archive(path: Path) -> tuple[dict[str, TensorPlace], dict[str, Scalar]]:
    """Return where each tensor of a `torch.save` archive lies, and the numbers kept beside them.

    Reads a pickle of a whole module, a dictionary of tensors, or either under `state_dict`; the
    names are those `state_dict()` would give. The metadata are a whole module's plain attributes
    under dotted names (`scale_factor`, `conv.num_groups`), and empty for a dictionary of tensors.
    Raises `CheckpointError` where the archive is damaged, compressed, big-endian or hostile; what
    is read takes at most eight times the file's size, and 64 MB.
    """
    archive = _open(path)
    if "byteorder" in archive.spans and archive.read("byteorder").strip() != b"little":
        raise CheckpointError(
            f"{path.name}: the weights are big-endian, which is not supported;"
            " save the file again on a little-endian machine"
        )
    root = read_pickle(archive.read("data.pkl"), path.name, archive.budget)
    if isinstance(root, dict) and "state_dict" in root:
        root = root["state_dict"]
    places: dict[str, TensorPlace] = {}
    metadata: dict[str, Scalar] = {}
    if isinstance(root, dict):
        _charge_names(root, "", archive.budget)
        _collect_tensors(root, "", archive, places)
        return places, metadata
    for prefix, module in _walk(root, archive.budget):
        attributes = module.attributes
        volatile = attributes.get("_non_persistent_buffers_set")
        names = volatile if isinstance(volatile, list) else []
        archive.budget.spend(_MEMBER * len(names))
        skipped = {name for name in names if isinstance(name, str)}
        _collect_tensors(attributes["_parameters"], prefix, archive, places)
        _collect_tensors(attributes["_buffers"], prefix, archive, places, skipped)
        _collect_metadata(attributes, prefix, archive.budget, metadata)
    return places, metadata


def _open(path: Path) -> _Archive:
    """Find every record's bytes without reading them."""
    file = MappedFile(path)
    try:
        with _Stream(io.FileIO(path)) as stream, zipfile.ZipFile(stream) as archive:
            records = archive.infolist()
            pickles = [r.filename for r in records if r.filename.endswith("data.pkl")]
            if not pickles:
                raise CheckpointError(
                    f"{path.name}: a zip archive without the data.pkl of a checkpoint;"
                    " name a file that torch.save or safetensors wrote"
                )
            folder = min(pickles, key=len).removesuffix("data.pkl")
            spans: dict[str, tuple[int, int]] = {}
            for record in records:
                name = record.filename.removeprefix(folder)
                if name in spans:  # readers disagree on which of the two counts
                    raise zipfile.BadZipFile(f"two records are called {name}")
                if record.header_offset > file.size:
                    raise zipfile.BadZipFile(f"record {name} passes the end of the file")
                stream.seek(record.header_offset)
                spans[name] = _span(record, stream.read(_LOCAL_HEADER), file)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path.name}: the archive is damaged or cut short ({file.size} bytes; {error});"
            " download it again"
        ) from error
    _refuse_overlap(spans, path.name)
    return _Archive(file, spans, Budget(path.name, file.size))


class _Stream(io.BufferedReader):
    """A file that gives no more at once than a zip's directory may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read(_MAX_DIRECTORY)
        if size > _MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has {size} bytes")
        return super().read(size)


def _refuse_overlap(spans: Mapping[str, tuple[int, int]], source: str) -> None:
    """Raise `CheckpointError` where bytes belong to two records: one could stand for thousands."""
    end = 0
    for name, (start, size) in sorted(spans.items(), key=lambda item: item[1]):
        if start < end:
            raise CheckpointError(
                f"{source}: record {name} of the archive begins inside another one;"
                " the file is damaged or hostile, so get it again from its publisher"
            )
        end = start + size


def _span(record: zipfile.ZipInfo, header: bytes, file: MappedFile) -> tuple[int, int]:
    """Return a record's first byte in the file and its size."""
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise CheckpointError(
            f"{file.path.name}: record {record.filename} is compressed or encrypted, which"
            " torch.save never does; load the file and save it again with torch.save"
        )
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"record {record.filename} has no header")
    # The extra field pads the data to an alignment, so the central directory cannot tell its size.
    variable = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = record.header_offset + _LOCAL_HEADER + variable
    if start + record.file_size > file.size:
        raise zipfile.BadZipFile(f"record {record.filename} passes the end of the file")
    return start, record.file_size


def _walk(root: object, budget: Budget) -> Iterator[tuple[str, Record]]:
    """Yield every module of a tree with its dotted prefix, in the order of `state_dict()`."""
    pending: list[tuple[str, object]] = [("", root)]
    while pending:
        prefix, module = pending.pop()
        if not isinstance(module, Record):
            continue
        trees = [module.attributes.get(k) for k in ("_parameters", "_buffers", "_modules")]
        if not all(isinstance(tree, dict) for tree in trees):
            continue
        # What modules share at every level would multiply names without end.
        for members in (module.attributes, *trees):
            assert isinstance(members, dict)
            _charge_names(members, prefix, budget)
        yield prefix, module
        children = trees[2] if isinstance(trees[2], dict) else {}
        pending += [
            (f"{prefix}{name}.", child)
            for name, child in reversed(children.items())
            if isinstance(name, str)
        ]


def _charge_names(members: Mapping[object, object], prefix: str, budget: Budget) -> None:
    """Charge what naming all `members` takes; raises `CheckpointError`, too, for an endless one."""
    budget.spend(_MEMBER * (1 + len(members)))
    lengths = [len(prefix) + len(name) for name in members if isinstance(name, str)]
    budget.spend(_LETTER * sum(lengths))
    if max(lengths, default=0) > _MAX_NAME:
        raise CheckpointError(
            f"{budget.source}: its modules contain one another without end, or one has a name of"
            f" more than {_MAX_NAME} letters; the file is damaged or hostile, so get it again from"
            " its publisher"
        )


def _collect_tensors(
    members: object,
    prefix: str,
    archive: _Archive,
    places: dict[str, TensorPlace],
    skipped: Collection[str] = (),
) -> None:
    """Add the place of every tensor among `members`; whatever else they hold is left out."""
    for name, member in members.items() if isinstance(members, dict) else ():
        place = _place(member, archive)
        if place is not None and isinstance(name, str) and name not in skipped:
            places[f"{prefix}{name}"] = place


def _place(value: object, archive: _Archive) -> TensorPlace | None:
    """Return where a tensor or a parameter lies, or None for a value that is neither."""
    if isinstance(value, Record) and (
        value.is_call_of("torch._utils", "_rebuild_parameter")
        or value.is_call_of("torch._utils", "_rebuild_parameter_with_state")
    ):
        value = value.args[0] if value.args else None
    if not isinstance(value, Record) or not value.is_call_of("torch._utils", "_rebuild_tensor_v2"):
        return None
    match value.args:
        case (
            Persistent(("storage", Name("torch", kind), str(key), _, _)),
            int(offset),
            tuple(shape),
            tuple(stride),
            *_,
        ) if kind in _STORAGES and len(key) < _MAX_NAME and f"data/{key}" in archive.spans:
            start, nbytes = archive.spans[f"data/{key}"]
            return TensorPlace(
                archive.file, start, nbytes, _STORAGES[kind], shape, stride, offset=offset
            )
    raise CheckpointError(
        f"{archive.file.path.name}: a tensor is described in a way that is not understood"
        " or its record is missing; download the file again"
    )


def _collect_metadata(
    attributes: Mapping[object, object], prefix: str, budget: Budget, metadata: dict[str, Scalar]
) -> None:
    """Add a module's own plain attributes, leaving out the private ones and `training`."""
    for name, value in attributes.items():
        if not isinstance(name, str) or name.startswith("_") or name == "training":
            continue
        fact = _fact(value)
        if fact is not None:
            budget.spend(getsizeof(fact))
            metadata[f"{prefix}{name}"] = fact


def _fact(value: object) -> Scalar | None:
    """Return a number, a text or a flat tuple of them, or None for anything else."""
    if _is_plain(value):
        return value
    if isinstance(value, Record) and value.factory == Name("omegaconf.listconfig", "ListConfig"):
        # A configuration's list keeps each number in a node of its own.
        content = value.attributes.get("_content")
        nodes = content if isinstance(content, list) else []
        nodes = nodes if len(nodes) <= _MAX_FACT else []
        value = [node.attributes.get("_val") for node in nodes if isinstance(node, Record)]
    if isinstance(value, list | tuple) and len(value) <= _MAX_FACT:
        plain = tuple(part for part in value if _is_plain(part))
        return plain if len(plain) == len(value) else None
    return None


def _is_plain(value: object) -> TypeGuard[bool | int | float | str]:
    """Tell numbers and texts that a configuration may hold from what takes room without end."""
    if isinstance(value, str):
        return len(value) <= _MAX_NAME
    if isinstance(value, int):
        return abs(value) < _MAX_NUMBER
    return isinstance(value, float)
