"""What tests share: the recorded numbers, and bundles that are exported once.

In `pytest --numprocesses=2` each worker keeps to its share of the cores, and one of them exports.
"""

import gc
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
SHAPES = DATA / "shapes"
"""The suite's own trained model, of moving shapes: 8 frames of 64x64."""
TINY_DECODER = DATA / "taesd_layout_decoder.safetensors"

Golden = Mapping[str, NDArray[Any]]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

TIMEOUT_S = 300
"""Of a command."""
EXPORTED = {"nano_bundle", "tiny_bundle", "half_builtin"}
"""Fixtures of `hb-export`: what uses them is slow."""


def small_sizes() -> dict[str, dict[str, int]]:
    """Return sizes of the built-in model's stages for 2 frames of 32 x 32."""
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle

    side = 32 // Bundle.open(BUILTIN).manifest.model.vae_downsampling
    space = {"frames": 2, "height": side, "width": side}
    return {"text_encoder": {"batch": 1}, "unet": space, "vae_decoder": space}


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
    """Mark as slow what uses a bundle that has to be exported; put files of slow tests first.

    Else a worker waits at the end while the other one is amid a long file.
    """
    files: dict[Path, list[bool]] = {}
    for item in items:
        if EXPORTED & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        is_slow = item.get_closest_marker("slow") is not None
        files.setdefault(item.path, []).append(is_slow)
    # Files of slow tests alone, then those with some, then those with none.
    items.sort(key=lambda item: -all(files[item.path]) - any(files[item.path]))


def pytest_collection_finish() -> None:
    """Take what is imported by now out of the garbage collector's sight.

    It would walk through all of PyTorch again and again, a fifth of a small export's time.
    """
    gc.collect()
    gc.freeze()


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
    """Export the nano checkpoint with the real command, every stage of it; the slow part."""
    stages = ["--vae-encoder", "--tiny-decoder", TINY_DECODER]
    return _once(tmp_path_factory, "nano", ["build", NANO, *stages, "--precision", "fp32"])


@pytest.fixture(scope="session")
def half_builtin(tmp_path_factory: pytest.TempPathFactory, cache_home: Path) -> Path:
    """Return the built-in bundle with float16 graphs too."""
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN

    return _once(tmp_path_factory, "half", ["quantize", BUILTIN, "--precision", "fp32+fp16"])


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
            "attention_levels": [],  # the middle block has one of each kind
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
    """Export the very small model with random weights stored as float16, by the real command.

    The seed is the default, as in the bundles of random weights that benchmarks compare.
    """
    arguments = ["--config", tiny_config, "--tokenizer", tiny_config.parent / "tokenizer"]
    stored = ["--precision", "fp32", "--storage", "float16", "--opset", "20"]
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
        return _run(*command_line(name, *arguments)[2:], cwd=cwd)

    return run


@pytest.fixture(scope="session")
def hb_forked(forked: Command) -> Command:
    """Return what `hb` does, in forks: for slow tests of commands that need PyTorch."""

    def run(
        name: str, *arguments: object, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return forked(*command_line(name, *arguments)[2:], cwd=cwd)

    return run


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Return a function that runs a program with arguments in a process of its own.

    It is a fork of one that has imported the large libraries, where the system has forks.
    """
    if not hasattr(os, "fork"):
        yield _run
        return
    server = Path(__file__).with_name("fork_server.py")
    streams = tmp_path_factory.mktemp("streams")
    with subprocess.Popen(
        [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def run(
            program: str, *arguments: str, cwd: Path | None = None
        ) -> "subprocess.CompletedProcess[str]":
            out, errors = streams / "out", streams / "errors"
            for path in (out, errors):
                path.write_bytes(b"")
            job = {
                "program": program,
                "arguments": arguments,
                "folder": str(cwd or Path.cwd()),
                "environment": _environment(),
                "out": str(out),
                "errors": str(errors),
                "timeout_s": TIMEOUT_S,
            }
            print(json.dumps(job), file=stdin, flush=True)
            status = int(stdout.readline())
            texts = (path.read_bytes().decode() for path in (out, errors))
            return subprocess.CompletedProcess([program, *arguments], status, *texts)

        yield run
        stdin.close()


def _run(
    program: str, *arguments: str, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,  # in the system's encoding, as the command's output is
        env=_environment(),
        timeout=TIMEOUT_S,
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200"}


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
