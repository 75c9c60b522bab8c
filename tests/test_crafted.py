"""Crafted files are answered with a sentence, soon, and in memory that their size explains."""

import io
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.runtime.errors import CheckpointError

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
    """Assert that what is done takes less than ten seconds, and eight times `size` and 64 MB."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < 10
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


@pytest.mark.parametrize("name", ARCHIVES)
def test_crafted_archives_cost_little(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(ARCHIVES[name])
    with bounded(len(ARCHIVES[name])), suppress(CheckpointError):
        read_checkpoint(tmp_path / "a.pt")
