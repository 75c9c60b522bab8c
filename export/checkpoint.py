"""A published checkpoint: its tensors under their published names, and where they came from."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from hummingbird_edge.export.mapped_tensors import MappedTensors
from hummingbird_edge.export.safetensors_file import SafetensorsFile
from hummingbird_edge.export.torch_archive import Scalar, read_torch_archive
from hummingbird_edge.runtime.bundle.hub import HubSnapshot, looks_like_hub_id
from hummingbird_edge.runtime.errors import CheckpointError
from hummingbird_edge.runtime.files import read_json, recover, require_inside, sha256_of

__all__ = ["Checkpoint", "load_strict", "read_checkpoint"]

_PUBLISHED = "07B_merged_all.pt"  # AMD's repository holds two checkpoints; this is the smallest
_INDEX = ".safetensors.index.json"
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Hold what was read: its provenance, its files, its tensors and the numbers beside them.

    `source` is a file name, or `owner/name@commit/file` for one from the hub. `tensors` maps the
    published names to views of the mapped files, made when asked for. `metadata` maps dotted paths
    to the plain attributes of a whole-module pickle and is empty for other formats.
    """

    source: str
    files: tuple[Path, ...]
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, Scalar]

    def sha256(self) -> str:
        """Return the file's SHA-256 in hexadecimal, or that of its shards' digests in order."""
        digests = [sha256_of(file) for file in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def read_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    filename: str | None = None,
    cache_dir: Path | None = None,
) -> Checkpoint:
    """Read a checkpoint file, folder or hub repository, running nothing that it contains.

    `source` is a `torch.save` archive (a whole module, or a dictionary of tensors), a safetensors
    file or index, a folder of one of those, or a hub id such as `amd/AMD-Hummingbird-T2V`;
    `filename` picks one of a folder's or a repository's files, and `revision` and `cache_dir`
    are for the hub. Raises `CheckpointError` where it is missing, damaged, unsafe or of an
    unknown format, `HubError` where it cannot be downloaded.
    """
    path = Path(source)
    recover(path)
    if path.is_dir():
        names = [file.name for file in path.iterdir() if file.is_file()]
        chosen = filename or _choose_weights(names, str(source))
        return _read(chosen, lambda name: path / name, label=chosen)
    if path.exists():
        return _read(path.name, lambda name: path.parent / name, label=path.name)
    if isinstance(source, str) and _is_repository(source):
        snapshot = HubSnapshot.resolve(source, revision, cache_dir)
        chosen = filename or _choose_weights(snapshot.names, source)
        label = f"{source}@{snapshot.commit}/{chosen}"
        return _read(chosen, snapshot.fetch, label=label)
    raise CheckpointError(
        f"{source}: no such file or folder; check the path, or name a hub repository as owner/name"
    )


def load_strict(
    module: torch.nn.Module,
    checkpoint: Checkpoint,
    prefix: str,
    *,
    ignored: Collection[str] = (),
) -> None:
    """Give a module the checkpoint's tensors under `prefix`, without copying them.

    The module's names are the published ones less `prefix`, which ends with a dot; it may be on the
    meta device. `ignored` lists published names the module has no use for, less `prefix` too; one
    that ends with a dot stands for all beneath it. Dtypes stay those of the checkpoint.
    Raises `CheckpointError` once for all missing, unexpected, misshapen and non-finite tensors.
    """
    expected = module.state_dict()
    tensors = checkpoint.tensors
    found = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    shared = [name for name in expected if name in found]
    fitting = {name: tensors[prefix + name] for name in shared}
    misfits = {n: reason for n in shared if (reason := _misfit(expected[n], fitting[n]))}
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": sorted(n for n in found - set(expected) if not _is_ignored(n, ignored)),
        "misshapen": [f"{name} {reason}" for name, reason in misfits.items()],
        "non-finite": [n for n in shared if n not in misfits and not _is_finite(fitting[n])],
    }
    if any(problems.values()):
        listed = "; ".join(_shortened(kind, names) for kind, names in problems.items() if names)
        raise CheckpointError(
            f"{checkpoint.source}: the tensors{f' under {prefix!r}' if prefix else ''} do not fit"
            f" {type(module).__name__} ({listed}); choose the preset this checkpoint was made for,"
            " or download it again"
        )
    module.load_state_dict(fitting, strict=True, assign=True)


def _read(name: str, locate: Callable[[str], Path], *, label: str) -> Checkpoint:
    """Read the file called `name`, and the shards it lists where it is an index."""
    path = locate(name)
    shards = [name]
    if name.endswith(_INDEX):
        folder = PurePosixPath(name).parent
        shards = [str(folder / shard) for shard in _shards(path)]
    files = tuple(locate(shard) for shard in shards)
    tensors, metadata = _read_files(files)
    if not tensors:
        raise CheckpointError(
            f"{label}: it holds no tensors under names;"
            " name a file of a whole module or of a state_dict"
        )
    return Checkpoint(label, files, tensors, metadata)


class _Tensors(Mapping[str, torch.Tensor]):
    """The tensors of several files as one mapping, each made when it is used.

    For another process it is pickled as the paths of its files.
    """

    def __init__(
        self, files: Sequence[Path], sources: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> None:
        self._files, self._sources = tuple(file.absolute() for file in files), sources

    def __reduce__(self) -> tuple[Callable[[Sequence[Path]], "_Tensors"], tuple[Any, ...]]:
        return _reopened, (self._files,)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._sources[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._sources  # Mapping's own would make the tensor to find out


def _reopened(files: Sequence[Path]) -> _Tensors:
    return _read_files(files)[0]


def _read_files(files: Sequence[Path]) -> tuple[_Tensors, dict[str, Scalar]]:
    sources: dict[str, Mapping[str, torch.Tensor]] = {}
    metadata: dict[str, Scalar] = {}
    for file in files:
        try:
            found, numbers = _read_file(file)
        except OSError as error:
            raise CheckpointError(
                f"{file.name}: cannot be read ({error.strerror or error});"
                " check that it is there and may be read"
            ) from error
        sources |= dict.fromkeys(found, found)
        metadata |= numbers
    return _Tensors(files, sources), metadata


def _read_file(path: Path) -> tuple[Mapping[str, torch.Tensor], dict[str, Scalar]]:
    """Read one file by what it begins with, as the suffix is only what someone called it."""
    with path.open("rb") as stream:
        head = stream.read(9)
    if not head:
        raise CheckpointError(f"{path.name}: the file is empty; download it again")
    if head.startswith(b"PK\x03\x04"):
        places, metadata = read_torch_archive(path)
        return MappedTensors(places), metadata
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return SafetensorsFile(path), {}
    if head[0] == 0x80:
        raise CheckpointError(
            f"{path.name}: a bare pickle, as PyTorch wrote before 1.6, found where a zip archive"
            " belongs; load it in a PyTorch you trust it with and save it again with torch.save"
        )
    raise CheckpointError(
        f"{path.name}: not a checkpoint (it begins with {head!r});"
        " name a file that torch.save or safetensors wrote"
    )


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        for name in names:
            require_inside(name)
            if PurePosixPath(name).name != name:
                raise ValueError("a shard lies outside the index's folder")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index.name}: the index of shards cannot be used ({error}); download it again"
        ) from error
    return names


def _choose_weights(names: Iterable[str], source: str) -> str:
    """Choose the one file to read: an index, else safetensors, else AMD's, else a lone pickle."""
    present = sorted(name for name in names if "/" not in name)
    tensors = [name for name in present if name.endswith(".safetensors")]
    pickles = [name for name in present if name.endswith(_PICKLES)]
    indexes = [name for name in present if name.endswith(_INDEX)]
    known = [name for name in pickles if name == _PUBLISHED]
    for candidates in (indexes, tensors, known, pickles):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise CheckpointError(
                f"{source}: several checkpoints are there ({', '.join(candidates[:_NAMES_SHOWN])});"
                " say which one by its file name"
            )
    raise CheckpointError(
        f"{source}: no .safetensors, {', '.join(_PICKLES)} file is there;"
        " name a checkpoint file or another folder"
    )


def _is_repository(source: str) -> bool:
    """Tell `owner/name` from a misspelt path to a weights file."""
    weights = source.endswith((*_PICKLES, ".safetensors", ".json"))
    return looks_like_hub_id(source) and not weights and not Path(source).parent.exists()


def _is_ignored(name: str, ignored: Collection[str]) -> bool:
    return name in ignored or any(i.endswith(".") and name.startswith(i) for i in ignored)


def _misfit(expected: torch.Tensor, found: torch.Tensor) -> str | None:
    if found.shape != expected.shape:
        return f"is {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.is_floating_point() != expected.is_floating_point():
        return f"holds {found.dtype} instead of {expected.dtype}"
    return None


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:  # the 8-bit floats have no ordering kernels
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)  # passes NaN on, and needs no mask the size of the tensor
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _shortened(kind: str, names: list[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return f"{len(names)} {kind}: {', '.join(names[:_NAMES_SHOWN])}{more}"
