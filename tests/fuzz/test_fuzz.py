"""Damaged files of every kind: each reader answers with a sentence, soon and in little memory."""

import json
import runpy
import time
import tracemalloc
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest

_FUZZ = runpy.run_path(str(Path(__file__).with_name("readers.py")))
READERS: Mapping[str, Any] = _FUZZ["READERS"]
try_file: Callable[..., Exception | None] = _FUZZ["try_file"]
CORPUS = Path(__file__).with_name("corpus")
MUTATIONS = 600
ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFF, *b'[]{}()tRqh0.:,"\\-eN')
ODD_VALUES: tuple[object, ...] = (
    *(None, True, -1, 0, 1, 0.5, 255, 2**31, 2**63, 10**30, 10**400, float("nan"), float("inf")),
    *("", "a", "\0", "\ud800", "../a", "x" * 300, [], [[]], [1, "a"], {}, {"a": {}}, {"": None}),
)


def mutated(random: Random, content: bytes) -> bytes:
    """Return `content` with one to eight pieces overwritten, removed, repeated or moved."""
    made = bytearray(content)
    for _ in range(random.randint(1, 8)):
        start = random.randrange(len(made) + 1)
        piece = slice(start, start + random.choice((1, 1, 1, 2, 4, 8, 64)))
        match random.randrange(5):
            case 0:
                made[start : start + 1] = bytes([random.choice(ODD_BYTES)])
            case 1:
                made[start : start + 1] = random.randbytes(1)
            case 2:
                del made[piece]
            case 3:
                made[start:start] = made[piece] * random.choice((1, 2, 50))
            case _:
                other = random.randrange(len(made) + 1)
                made[other : other + 8] = made[start : start + 8]
    return bytes(made)


def mutated_json(random: Random, text: bytes) -> bytes:
    """Return JSON with one to three values, anywhere in it, replaced by odd ones."""
    root = json.loads(text)
    for _ in range(random.randint(1, 3)):
        part = root
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = random.choice(keys)
            inner = part[key]
            if isinstance(inner, dict | list) and inner and random.random() < 0.8:
                part = inner
                continue
            if random.random() < 0.1 and isinstance(part, dict):
                part[random.choice(["", "surprise", "\ud800"])] = part.pop(key)
            else:
                part[key] = deepcopy(random.choice(ODD_VALUES))
            break
    return json.dumps(root).encode()


def with_mutated_header(random: Random, content: bytes) -> bytes:
    """Return a safetensors file whose header has odd values."""
    size = int.from_bytes(content[:8], "little")
    header = mutated_json(random, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def with_mutated_line(random: Random, content: bytes) -> bytes:
    """Return a file of latents whose first line has odd values."""
    line, _, numbers = content.partition(b"\n")
    return mutated_json(random, line) + b"\n" + numbers


STRUCTURED = {
    "safetensors": with_mutated_header,
    "adapter": with_mutated_header,
    "latents": with_mutated_line,
    **dict.fromkeys(("index", "adapter_config", "config", "manifest"), mutated_json),
}


def assert_bounded(name: str, content: bytes, folder: Path) -> None:
    """Read `content`; asserts less than ten seconds, and 64 MB and eight times its size."""
    tracemalloc.reset_peak()
    before, began = tracemalloc.get_traced_memory()[0], time.process_time()
    error = try_file(READERS[name], content, folder)
    took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1] - before
    assert took < 10, error
    assert peak < 8 * len(content) + (64 << 20), error


@pytest.fixture
def traced() -> Any:
    """Trace allocations during a test."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_answered(name: str, tmp_path: Path, traced: None) -> None:
    random, seeds = Random(name), READERS[name].seeds()
    for number in range(MUTATIONS):
        mutate = STRUCTURED.get(name, mutated) if number % 2 else mutated
        content = mutate(random, random.choice(seeds))
        try:
            assert_bounded(name, content, tmp_path)
        except Exception as error:
            found = tmp_path.parent / f"{name}-{number}"
            found.write_bytes(content)
            raise AssertionError(
                f"{found} ends in {error!r}: keep it in {CORPUS / name}"
            ) from error


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(name: str, tmp_path: Path) -> None:
    for seed in READERS[name].seeds():
        error = try_file(READERS[name], seed, tmp_path)
        expected = {"manifest": "is missing", "index": "w.safetensors", "safetensors": "tensor"}
        # Small files have no model in them, which is the last thing that is looked at.
        assert error is None or expected.get(name, "holds no unet") in str(error)


@pytest.mark.parametrize(
    "path", sorted(path for path in CORPUS.glob("*/*") if path.is_file()), ids=lambda p: p.name
)
def test_files_that_were_found_are_answered(path: Path, tmp_path: Path, traced: None) -> None:
    assert_bounded(path.parent.name, path.read_bytes(), tmp_path)
