"""Crafted files are answered with a sentence, soon, and in memory that their size explains."""

import io
import json
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hummingbird_edge.export import build_bundle
from hummingbird_edge.export.architecture import read_config
from hummingbird_edge.export.checkpoint import Checkpoint, read_checkpoint
from hummingbird_edge.export.lora import Adapter
from hummingbird_edge.export.models.config import PRESETS
from hummingbird_edge.export.weights import RandomWeights
from hummingbird_edge.runtime.errors import (
    CheckpointError,
    HummingbirdError,
    OutOfMemoryError,
    OutputError,
)

NANO = Path(__file__).parent / "data" / "nano_07b_merged_all.pt"

_LENGTH = 1 << 20
_M61 = (1 << 61) - 1
_LONG = b"\x80\x02"


def _numbers(count: int) -> bytes:
    """Return keys of one hash: in a dictionary each is compared with all before it."""
    return b"".join(
        b"\x8a\x0b" + (index * _M61).to_bytes(11, "little") + b"N" for index in range(1, count)
    )


def _copied_dictionaries() -> bytes:
    pairs = b"(" + b"K\x01N\x86" * 10_000 + b"lq\x01"
    return _LONG + pairs + b"ccollections\nOrderedDict\nq\x02" + b"h\x02h\x01\x85R0" * 700 + b"."


def _shared_modules() -> bytes:
    """Return modules that hold the next one twelve times: 12 ** 9 names."""
    module = b"cx\nY\n)\x81}(V_parameters\n}V_buffers\n}V_modules\n}"
    pickled = module + b"ub"
    for level in range(9):
        pickled += b"q%c0" % level
        children = b"(" + b"".join(b"V%d\nh%c" % (n, level) for n in range(12)) + b"u"
        pickled += module + children + b"ub"
    return _LONG + pickled + b"."


def _nested_parameters() -> bytes:
    """Return a parameter of a parameter and so on, under many names."""
    rebuild = b"ctorch._utils\n_rebuild_parameter\nq\x00"
    nested = b"h\x00N\x85Rq\x01" + b"0h\x00h\x01\x85Rq\x01" * 20_000
    return (
        _LONG
        + rebuild
        + nested
        + b"}("
        + b"".join(b"V%d\nh\x01" % n for n in range(20_000))
        + b"u."
    )


PICKLES: dict[str, bytes] = {
    "copied dictionaries": _copied_dictionaries(),
    "many None": _LONG + b"(" + b"N" * (_LENGTH) + b"l.",
    "many lists": _LONG + b"(" + b"]" * (_LENGTH) + b"l.",
    "many dictionaries": _LONG + b"(" + b"}" * (_LENGTH) + b"l.",
    "many marks": _LONG + b"(" * (_LENGTH) + b".",
    "many memos": _LONG + b"N" + b"\x94" * (_LENGTH) + b".",
    "many nested tuples": _LONG + b")" + b"\x85" * (_LENGTH) + b".",
    "many classes": _LONG + b"(" + b"ca\nb\n" * ((_LENGTH) // 5) + b"l.",
    "objects": _LONG + b"(ca\nb\nq\x00" + b"h\x00)\x81" * 1_000_000 + b"l.",
    "keys of one hash": _LONG + b"}(" + _numbers(100_000) + b"u.",
    "memos of one hash": b"N" + b"".join(b"p%d\n" % (n * _M61) for n in range(50_000)) + b".",
    "a class of a long name": _LONG
    + b"V"
    + b"a." * 500_000
    + b"\nq\x00"
    + b"h\x00h\x00\x93" * 100
    + b".",
    "shared modules": _shared_modules(),
    "nested parameters": _nested_parameters(),
    "a long number": b"I" + b"9" * 1_000_000 + b"\n.",
}


def archive_of(pickled: bytes) -> bytes:
    """Return a `torch.save` archive with this pickle and a storage of eight numbers."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", torch.ones(8).numpy().tobytes())
    return out.getvalue()


def _tensor() -> bytes:
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI8\ntQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n(I8\nt(I1\ntI00\n(dtR"


def _shared_storage() -> bytes:
    names = b"".join(b"V%d\nh\x00" % n for n in range(50_000))
    return archive_of(_LONG + _tensor() + b"q\x000}(" + names + b"u.")


def _directory_alone() -> bytes:
    """Return an archive whose directory lists one record half a million times."""
    whole = archive_of(_LONG + b"}.")
    start = whole.index(b"PK\x01\x02")
    entry = b"PK\x01\x02" + struct.pack("<4B4HL2L5H2L", 20, 3, 20, *[0] * 8, 1, *[0] * 6)
    listed = b"".join(entry + b"%c" % (n % 128) for n in range(200_000))
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 65535, 65535, len(listed), start, 0)
    return whole[:start] + listed + end


def _overlapping() -> bytes:
    """Return an archive of which many records are the same bytes."""
    whole = archive_of(_LONG + b"}.")
    start = whole.index(b"PK\x01\x02")
    entry = whole[start : whole.index(b"PK\x01\x02", start + 1)]
    listed = b"".join(entry.replace(b"data.pkl", b"%07dl" % n) for n in range(1000))
    listed += whole[start : whole.index(b"PK\x05\x06")]
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1002, 1002, len(listed), start, 0)
    return whole[:start] + listed + end


ARCHIVES: dict[str, bytes] = {
    "a storage of many tensors": _shared_storage(),
    "a directory alone": _directory_alone(),
    "overlapping records": _overlapping(),
}


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Assert that what is done takes little time, and at most eight times `size` and 64 MB.

    Thirty seconds: allocations that are traced take three times as long as others.
    """
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < 30
        assert tracemalloc.get_traced_memory()[1] < 8 * size + (64 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", PICKLES)
def test_crafted_pickles_cost_little(name: str, tmp_path: Path) -> None:
    content = archive_of(PICKLES[name])
    (tmp_path / "a.pt").write_bytes(content)
    with bounded(len(content)), pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert len(str(caught.value)) < 500


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHIVES)
def test_crafted_archives_cost_little(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(ARCHIVES[name])
    with bounded(len(ARCHIVES[name])), suppress(CheckpointError):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("sizes", [1, 4_000_000])
def test_safetensors_whose_header_is_large_are_refused(tmp_path: Path, sizes: int) -> None:
    entry = {"dtype": "F32", "shape": [0] * sizes, "data_offsets": [0, 0]}
    header = json.dumps({"a": entry} if sizes > 1 else {str(n): entry for n in range(80_000)})
    content = len(header).to_bytes(8, "little") + header.encode()
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="its list of tensors has"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "weight_map",
    [
        5,
        [],
        {"a": 5},
        {"a": ["x"]},
        {"a": None, "b": "x"},
        {"a": ""},
        {"a": ".."},
        {"a": "\0"},
        {"a": "\ud800"},
        {"a": "x" * 300},
        {"a": "/x"},
    ],
)
def test_an_index_of_wrong_types_is_refused(tmp_path: Path, weight_map: object) -> None:
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="the index of shards cannot be used"):
        read_checkpoint(index)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale_factor", 10**400),
        ("scale_factor", "1"),
        ("scale_factor", float("nan")),
        ("parameterization", ("eps",)),
        ("model.diffusion_model.init_attn.0.transformer_blocks.0.attn1.heads", 10**9),
        ("model.diffusion_model.input_blocks.1.0.in_layers.0.num_groups", 10**6),
        ("cond_stage_model.model.transformer.resblocks.0.attn.num_heads", 10**6),
    ],
)
def test_odd_numbers_of_a_checkpoint_are_refused(name: str, value: int) -> None:
    nano = read_checkpoint(NANO)
    odd = Checkpoint(nano.source, nano.files, nano.tensors, {**nano.metadata, name: value})
    with pytest.raises(CheckpointError):
        read_config(odd)


@pytest.mark.parametrize("shape", [(), (1,), (0, 0), (10**9, 0), (1, 1, 1, 1, 1), (8192, 2, 1, 1)])
def test_odd_shapes_of_a_checkpoint_are_refused(shape: tuple[int, ...]) -> None:
    nano = read_checkpoint(NANO)
    for name in (
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.init_attn.0.transformer_blocks.0.attn1.to_q.weight",
        "cond_stage_model.model.token_embedding.weight",
        "cond_stage_model.model.positional_embedding",
        "first_stage_model.encoder.conv_in.weight",
        "first_stage_model.post_quant_conv.weight",
    ):
        tensors = {**nano.tensors, name: torch.empty(shape)}
        with suppress(HummingbirdError):
            read_config(Checkpoint(nano.source, nano.files, tensors, nano.metadata))


def _adapter(folder: Path, metadata: object, tensors: dict[str, torch.Tensor]) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(metadata), encoding="utf-8")
    names = {f"base_model.model.0.lora_{side}.weight": part for side, part in tensors.items()}
    save_file(names, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    "metadata",
    [
        5,
        [],
        {"r": 2},
        {"r": "2", "lora_alpha": 1},
        {"r": 10**400, "lora_alpha": 1},
        {"r": -2, "lora_alpha": 1, "use_rslora": True},
        {"r": 2, "lora_alpha": 10**400},
        {"r": 2, "lora_alpha": float("nan")},
        {"r": 2, "lora_alpha": float("inf")},
        {"r": 2, "lora_alpha": None},
    ],
)
def test_crafted_numbers_of_an_adapter_are_refused(tmp_path: Path, metadata: object) -> None:
    tensors = {"A": torch.ones(2, 3), "B": torch.ones(4, 2)}
    with pytest.raises(CheckpointError, match="does not state rank and alpha"):
        Adapter.read(_adapter(tmp_path, metadata, tensors))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(()), torch.ones(4, 2)),
        (torch.ones(2, 3), torch.ones(())),
        (torch.ones(3, 3), torch.ones(4, 2)),  # another rank
        (torch.ones(2, 3, dtype=torch.complex64), torch.ones(4, 2)),
        (torch.ones(2, 3) * torch.nan, torch.ones(4, 2)),
        (torch.ones(2, 3) * 3e38, torch.ones(4, 2)),
    ],
)
def test_crafted_weights_of_an_adapter_are_refused(
    tmp_path: Path, a: torch.Tensor, b: torch.Tensor
) -> None:
    adapter = Adapter.read(_adapter(tmp_path, {"r": 2, "lora_alpha": 2}, {"A": a, "B": b}))
    with pytest.raises(CheckpointError, match=r"trained on another model|not finite"):
        adapter.merge(torch.nn.Sequential(torch.nn.Linear(3, 4)))


def test_weights_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hummingbird_edge.export.weights.machine_bytes", lambda: 1 << 30)
    with pytest.raises(OutOfMemoryError, match=r"the weights of unet take 3\.1GB"):
        RandomWeights().load("unet", PRESETS["hummingbird-0.7b"])


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        build_bundle(None, tmp_path / "file" / "a" / "out", preset="hummingbird-0.7b")
