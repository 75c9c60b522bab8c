"""What tests share: the recorded numbers, and bundles that are exported once.

In `pytest --numprocesses=2` each worker keeps to its share of the cores, and one of them exports.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filelock import FileLock
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
NANO = DATA / "nano_07b_merged_all.pt"

Golden = Mapping[str, NDArray[Any]]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

EXPORTED = {"nano_bundle", "tiny_bundle"}
"""Fixtures that take PyTorch's exporter: what uses them is slow."""


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker its share of the cores."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None or not hasattr(psutil.Process, "cpu_affinity"):
        return
    # Threads of two workers on the same cores wait for each other, up to thirty times as long.
    process = psutil.Process()
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    cores = process.cpu_affinity() or []
    share = cores[number::count] or cores
    process.cpu_affinity(share)
    os.environ["OMP_NUM_THREADS"] = str(len(share))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what uses a bundle that has to be exported."""
    for item in items:
        if EXPORTED & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what tests leave in the cache and among unfinished videos out of the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUMMINGBIRD_CACHE", str(folder))
        patch.setenv("HUMMINGBIRD_STATE", str(tmp_path_factory.mktemp("state")))
        yield folder


@pytest.fixture(scope="session")
def golden() -> dict[str, NDArray[Any]]:
    """Return the arrays that were recorded from the published code."""
    with np.load(DATA / "nano_07b_golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory, cache_home: Path) -> Path:
    """Export the nano checkpoint with the real command, with the VAE's encoder; the slow part."""
    return _once(tmp_path_factory, "nano", ["build", NANO, "--vae-encoder", "--precision", "fp32"])


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the configuration of a very small model, guided by a second pass as the teacher is."""
    from hummingbird_edge.export.vocabulary import Vocabulary

    folder = tmp_path_factory.mktemp("tiny_config")
    words = Vocabulary.clip().restricted_to(["a", "red", "cat"])
    words.write(folder / "tokenizer", 8)
    vocabulary = len(words.tokens)
    entries = {
        "text": {
            "vocab_size": vocabulary,
            "context_length": 8,
            "width": 8,
            "layers": 2,
            "heads": 2,
        },
        "unet": {
            "width": 8,
            "multipliers": [1],
            "attention_levels": [0],
            "head_width": 4,
            "initial_heads": 2,
            "context_width": 8,
            "middle_block": True,
            "guidance_width": None,
            "groups": 2,
        },
        "vae": {"width": 8, "multipliers": [1, 1], "res_blocks": 1, "groups": 2},
        "prediction_type": "v_prediction",
        "defaults": {"frames": 3, "width": 16, "height": 8, "steps": 2, "guidance": 4, "fps": 5},
    }
    (folder / "config.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder / "config.json"


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, cache_home: Path
) -> Path:
    """Export the very small model with random weights stored as float16, by the real command."""
    arguments = ["--config", tiny_config, "--tokenizer", tiny_config.parent / "tokenizer"]
    stored = ["--precision", "fp32", "--storage", "float16", "--opset", "20", "--seed", "3"]
    return _once(tmp_path_factory, "tiny", ["build", "--random-weights", *arguments, *stored])


def _once(factory: pytest.TempPathFactory, name: str, arguments: list[object]) -> Path:
    """Return the bundle that `hb-export` makes of `arguments`; all workers share one."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    out = folder / "bundles" / name
    out.parent.mkdir(exist_ok=True)
    with FileLock(f"{out}.lock"):
        if not out.exists():
            assert export(*arguments, out) == 0
    return out


def export(*arguments: object) -> object:
    """Run `hb-export` in this process, where PyTorch is loaded already; return its status."""
    from hummingbird_edge.export.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hb-export", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code


@pytest.fixture(scope="session")
def hb() -> Command:
    """Return a function that runs `hb-run` or `hb-export` as its users do, in a process."""

    def run(
        name: str, *arguments: object, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command_line(name, *arguments),
            cwd=cwd,
            capture_output=True,
            text=True,  # in the system's encoding, as the command's output is
            env=os.environ | {"COLUMNS": "200"},
            timeout=300,
        )

    return run


def command_line(name: str, *arguments: object) -> list[str]:
    """Return how to start a command with this interpreter, whether or not it is installed."""
    package = {
        "hb-run": "runtime",
        "hb-export": "export",
        "hb-distill": "distill",
        "hb-serve": "serve",
    }[name]
    program = f"from hummingbird_edge.{package}.cli import main; main()"
    return [sys.executable, "-c", program, *(str(argument) for argument in arguments)]
