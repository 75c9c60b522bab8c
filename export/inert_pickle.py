"""A pickle, read as data: its opcodes are interpreted here and nothing in it is ever called.

Python's own unpickler imports and calls whatever a pickle names. This one keeps a name as a `Name`
and a call, an object or an attribute look-up as a `Record` of what was asked for, so that there is
no code path from the file to an import, a call or a `setattr`. The list of refused names below is
therefore not what makes reading safe: it is there to tell the reader that a file is hostile.
"""

import pickletools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from sys import getsizeof

from hummingbird_edge.export.budget import Budget
from hummingbird_edge.runtime.errors import CheckpointError

__all__ = ["Name", "Persistent", "Record", "read_pickle"]

_BUILTINS = frozenset({"builtins", "__builtin__", "__builtins__"})
_HARMLESS_WORDS = """
    bool bytearray bytes complex dict float frozenset getattr int list long object range set
    slice str tuple type unicode
"""
_HARMLESS_BUILTINS = frozenset(_HARMLESS_WORDS.split())
_HOSTILE_WORDS = """
    _io _pickle _posixsubprocess asyncio bdb cProfile cloudpickle code codeop commands ctypes
    dill distutils ensurepip fileinput ftplib http imp importlib io joblib linecache marshal
    multiprocessing nt operator os pdb pickle pip pkgutil posix profile pty pydoc requests runpy
    shutil signal site smtplib socket subprocess sys telnetlib tempfile threading timeit
    torch.hub torch.load torch.ops torch.utils.cpp_extension urllib venv webbrowser zipimport
"""
_HOSTILE = frozenset(_HOSTILE_WORDS.split())
_HOSTILE_PARTS = _HOSTILE | {"__import__", "eval", "exec", "__globals__", "__builtins__"}
_MAPPINGS = frozenset({"dict", "OrderedDict", "defaultdict"})
_SEQUENCES = frozenset({"list", "set", "frozenset"})
_SCALARS = (str, bytes, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Name:
    """Stand for a class or a function that a pickle refers to, without importing it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """Stand for something kept outside the pickle, such as a tensor's storage."""

    key: object


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """Hold what a pickle says about one object: its factory, arguments, state and contents."""

    factory: object
    args: tuple[object, ...] = ()
    state: object = None
    items: dict[object, object] = field(default_factory=dict)
    elements: list[object] = field(default_factory=list)

    @property
    def attributes(self) -> dict[object, object]:
        """Return the object's instance dictionary, empty where the pickle gives none."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # (__dict__, slots)
            state = state[0]
        return state if isinstance(state, dict) else {}

    def is_call_of(self, module: str, name: str) -> bool:
        """Tell whether this is what calling `module.name` would have made."""
        return self.factory == Name(module, name)


def read_pickle(data: bytes, source: str, budget: Budget | None = None) -> object:
    """Return the one value a pickle describes, calling and importing nothing it names.

    Lists, dictionaries, tuples, numbers and strings come back as they are, sets as lists (hashing
    what a file chose to nest could exhaust the stack), every other object as a `Record`.
    What it makes is charged to `budget`, by default that of a file of this pickle alone.
    Raises `CheckpointError`, whose message begins with `source`, where the pickle names something
    that runs code, uses an extension opcode, is damaged or makes too much.
    """
    machine = _Machine(source, budget or Budget(source, len(data)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # odd escapes in Python 2's texts
            for opcode, argument, _ in pickletools.genops(data):
                machine.step(opcode.name, argument)
        return machine.pop()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{source}: its pickle is damaged ({str(error)[:200] or type(error).__name__});"
            " download the file again"
        ) from error


def _refuse_hostile(name: Name, source: str) -> None:
    """Raise `CheckpointError` where `name` is known to run code, touch files or import."""
    roots = {".".join(str(name).split(".")[:depth]) for depth in (1, 2, 3)}
    hostile = bool(roots & _HOSTILE) or bool(_HOSTILE_PARTS & set(name.name.split(".")))
    if name.module in _BUILTINS:
        hostile = name.name not in _HARMLESS_BUILTINS
    if hostile:
        raise CheckpointError(
            f"{source}: refused: the pickle asks for {name}, which a checkpoint has no use for and"
            " an attack has; delete the file and get the weights from their publisher"
        )


_STEP = 32
"""Bytes charged for an opcode: a place on the stack or in the memo, and its time."""
_SLOT, _ENTRY = 16, 128
"""Bytes an element of a list and an entry of a dictionary take at most while they grow."""
_OBJECT = 256
"""Bytes of an empty `Record`, and of a `Name` that is looked up among the hostile ones."""
_MAX_NAME = 1000
"""Letters of a class's name."""
_MAX_INDEX = 1 << 32
_COLLIDING = 64
"""Bytes charged for a comparison of two keys."""


class _Machine:
    """The pickle's stack machine; `step` runs one opcode on values that can do nothing."""

    def __init__(self, source: str, budget: Budget) -> None:
        self.source, self.spend = source, budget.spend
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def step(self, opcode: str, argument: object) -> None:
        self.spend(_STEP)
        if opcode in _LITERALS:
            self.push_new(argument)
        elif opcode in _IGNORED:
            return
        elif (action := _ACTIONS.get(opcode)) is not None:
            action(self, argument)
        else:
            raise CheckpointError(
                f"{self.source}: refused: the pickle uses {opcode}, which no checkpoint needs;"
                " get the weights from their publisher"
            )

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_new(self, value: object) -> None:
        self.spend(getsizeof(value) + _SLOT)
        self.stack.append(value)

    def pop(self) -> object:
        return self.stack.pop()

    def pop_mark(self) -> list[object]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def drop_mark(self) -> None:
        self.stack = self.marks.pop()

    def push_mark(self) -> None:
        self.spend(getsizeof([]) + _SLOT)
        self.marks.append(self.stack)
        self.stack = []

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:  # POP on an empty frame drops the mark beneath it
            self.drop_mark()

    def remember(self, index: object) -> None:
        self.spend(_ENTRY)
        self.memo[_integer(index)] = self.stack[-1]

    def recall(self, index: object) -> None:
        self.push(self.memo[_integer(index)])

    def push_tuple(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.push_new(tuple(reversed(values)))

    def push_name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a class is named by something that is no text")
        if len(module) + len(name) > _MAX_NAME:
            raise ValueError(f"a class has a name of {len(module) + len(name)} letters")
        self.spend(_OBJECT)
        found = Name(module, name)
        _refuse_hostile(found, self.source)
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push_name(module, name)

    def global_line(self, line: object) -> None:
        module, _, name = str(line).partition(" ")
        self.push_name(module, name)

    def call(self, keywords: bool = False) -> None:
        if keywords:
            self.pop()  # no class read here has keyword arguments that matter
        args, factory = self.pop(), self.pop()
        if not isinstance(args, tuple):
            raise TypeError("the arguments of a call are no tuple")
        self.construct(factory, args)

    def construct(self, factory: object, args: tuple[object, ...]) -> None:
        """Push a plain container where a pickle calls a container class, else a `Record`."""
        self.spend(_OBJECT)
        if isinstance(factory, Name) and factory.module in _BUILTINS | {"collections"}:
            content = args[0] if args and isinstance(args[0], list | tuple) else ()
            if factory.name in _SEQUENCES:
                made: list[object] = []
                self.extend(made, content)
                return self.push(made)
            if factory.name in _MAPPINGS:
                pairs = dict[object, object]()
                for pair in content:
                    self.set_entry(pairs, pair[0], pair[1])
                return self.push(pairs)
        return self.push(Record(factory, args))

    def call_marked(self, line: object) -> None:
        args = self.pop_mark()
        if line is None:  # OBJ keeps the class above the mark, INST writes it in the opcode
            factory = args.pop(0)
        else:
            self.global_line(line)
            factory = self.pop()
        self.construct(factory, tuple(args))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state

    def set_items(self, flat: list[object]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Record) else target
        if not isinstance(items, dict):
            raise TypeError("items are set on something that is no dictionary")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            self.set_entry(items, key, value)

    def set_entry(self, items: dict[object, object], key: object, value: object) -> None:
        self.spend(_ENTRY)
        if not isinstance(key, str) and not (isinstance(key, int) and 0 <= key < _MAX_INDEX):
            # Other keys can be chosen so that each is compared with all before it.
            self.spend(_COLLIDING * len(items))
        items[_hashable(key)] = value

    def extend(self, elements: list[object], values: Sequence[object]) -> None:
        self.spend(_SLOT * len(values))
        elements.extend(values)

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        elements = target.elements if isinstance(target, Record) else target
        if not isinstance(elements, list):
            raise TypeError("elements are appended to something that is no list")
        self.extend(elements, values)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def push_dict(self) -> None:
        flat = self.pop_mark()
        self.push_new({})
        self.set_items(flat)


def _hashable(key: object) -> object:
    """Return `key` where hashing it is shallow: deep tuples would overflow the C stack."""
    shallow = (*_SCALARS, Name, Record, Persistent)
    if isinstance(key, shallow) or (
        isinstance(key, tuple) and all(isinstance(part, shallow) for part in key)
    ):
        return key
    raise TypeError(f"a {type(key).__name__} is used as a dictionary key")


def _integer(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < _MAX_INDEX:
        raise TypeError("a memo index is no integer, or an impossible one")
    return value


_LITERAL_OPCODES = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES
    SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 FLOAT
    BINFLOAT
"""
_LITERALS = frozenset(_LITERAL_OPCODES.split())
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_ACTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push_new([]),
    "EMPTY_SET": lambda m, _: m.push_new([]),
    "EMPTY_DICT": lambda m, _: m.push_new({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push_tuple(1),
    "TUPLE2": lambda m, _: m.push_tuple(2),
    "TUPLE3": lambda m, _: m.push_tuple(3),
    "TUPLE": lambda m, _: m.push_new(tuple(m.pop_mark())),
    "LIST": lambda m, _: m.push(m.pop_mark()),
    "FROZENSET": lambda m, _: m.push(m.pop_mark()),
    "DICT": lambda m, _: m.push_dict(),
    "MARK": lambda m, _: m.push_mark(),
    "POP": lambda m, _: m.discard(),
    "POP_MARK": lambda m, _: m.drop_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "PUT": lambda m, index: m.remember(index),
    "BINPUT": lambda m, index: m.remember(index),
    "LONG_BINPUT": lambda m, index: m.remember(index),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GET": lambda m, index: m.recall(index),
    "BINGET": lambda m, index: m.recall(index),
    "LONG_BINGET": lambda m, index: m.recall(index),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_mark()),
    "ADDITEMS": lambda m, _: m.append(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_item(),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "GLOBAL": lambda m, line: m.global_line(line),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "NEWOBJ_EX": lambda m, _: m.call(keywords=True),
    "INST": lambda m, line: m.call_marked(line),
    "OBJ": lambda m, _: m.call_marked(None),
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, key: m.push_new(Persistent(key)),
    "BINPERSID": lambda m, _: m.push_new(Persistent(m.pop())),
}
