"""Pickles are read as data: what they name is recorded or refused, never run."""

import collections
import os
import pickle
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from hummingbird_edge.export.inert_pickle import Name, Record, read_pickle
from hummingbird_edge.runtime.errors import CheckpointError


class _Reduced:
    """Pickle to a call of whatever it is given."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


class _Plain:
    def __init__(self) -> None:
        self.width = 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_survive(protocol: int) -> None:
    value = {
        "list": [1, -2, 3.5, None, True, 2**70],
        "tuple": (1, (2, 3), (), ("a", "b", "c", "d")),
        "text": "é",
        "ordered": collections.OrderedDict(a=1, b=2),
        "default": collections.defaultdict(list, {"k": [1]}),
        ("key", 1): False,
    }
    assert read_pickle(pickle.dumps(value, protocol), "x") == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_sets_become_lists_and_objects_records(protocol: int) -> None:
    read = read_pickle(pickle.dumps([{7}, frozenset({8}), _Plain()], protocol), "x")
    assert isinstance(read, list)
    assert read[:2] == [[7], [8]]
    assert isinstance(read[2], Record)
    assert read[2].attributes == {"width": 3}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_of_the_system_is_refused_by_name(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    attack = pickle.dumps([_Reduced(os.system, f"echo > {marker}")], protocol)
    with pytest.raises(CheckpointError, match=r"x\.pt: refused: .* asks for (posix|nt)\.system"):
        read_pickle(attack, "x.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins exec",
        "builtins __import__",
        "__builtin__ open",
        "os system",
        "subprocess Popen",
        "sys modules",
        "runpy run_path",
        "importlib import_module",
        "importlib.util find_spec",
        "ctypes CDLL",
        "pickle loads",
        "torch.hub load",
        "torch load",
        "torch serialization.os.system",
        "functools partial.__globals__",
    ],
)
@pytest.mark.parametrize("stacked", [False, True])
def test_names_that_run_code_are_refused(name: str, stacked: bool) -> None:
    module, attribute = name.split()
    pickled = f"c{module}\n{attribute}\n.".encode()
    if stacked:
        pickled = f"V{module}\nV{attribute}\n".encode() + b"\x93."
    with pytest.raises(CheckpointError, match=f"asks for {module}.{attribute}"):
        read_pickle(pickled, "x")


def test_getattr_chain_reaches_nothing_real(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    reach = (
        b"c__builtin__\ngetattr\n(c__builtin__\ngetattr\n(ctorch\nserialization\nVos\ntRVsystem\ntR"
    )
    read = read_pickle(reach + f"(Vecho > {marker}\ntR.".encode(), "x")
    assert isinstance(read, Record)
    assert isinstance(read.factory, Record)
    assert read.factory.factory == Name("__builtin__", "getattr")
    assert not marker.exists()


def test_build_changes_no_class() -> None:
    read = read_pickle(b"ccollections\nOrderedDict\n(dVclear\nVgone\nsb.", "x")
    assert read == Name("collections", "OrderedDict")
    assert callable(collections.OrderedDict.clear)


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x97"])
def test_extension_and_buffer_opcodes_are_refused(opcode: bytes) -> None:
    with pytest.raises(CheckpointError, match="refused: the pickle uses"):
        read_pickle(b"\x80\x05" + opcode + b".", "x")


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"\x80\x02",
        b"(l",
        b"h\x05.",
        b"]K\x01s.",
        b"K\x01K\x02R.",
        b"\xff.",
        b"t.",
        b"0.",
    ],
)
def test_damage_is_one_sentence(pickled: bytes) -> None:
    with pytest.raises(CheckpointError, match="its pickle is damaged"):
        read_pickle(pickled, "x")


def test_deep_nesting_needs_no_stack() -> None:
    depth = 200_000
    assert read_pickle(b")" + b"\x85" * depth + b".", "x")
    with pytest.raises(CheckpointError, match="dictionary key"):
        read_pickle(b"}" + b")" + b"\x85" * depth + b"K\x01s.", "x")


def _list(elements: int) -> bytes:
    """Return a list of this many Nones, remembered as 0."""
    return b"\x80\x02(" + b"N" * elements + b"lq\x00"


@pytest.mark.slow
@pytest.mark.parametrize(
    "repeated",
    [
        b"cbuiltins\nset\nh\x00\x85R",  # set(list), each time
        b"ccollections\nOrderedDict\nh\x01\x85R",
        b"h\x00(h\x00h\x00e0",
    ],
)
def test_small_pickles_take_little_memory(repeated: bytes) -> None:
    """60 KB became 1.1 GB: one long list, copied by every few bytes."""
    pairs = b"(" + b"K\x01N\x86" * 10_000 + b"lq\x01"
    data = _list(30_000) + pairs + repeated * 3_000 + b"."
    tracemalloc.start()
    with suppress(CheckpointError):
        read_pickle(data, "a.pt")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(data) + (64 << 20)
