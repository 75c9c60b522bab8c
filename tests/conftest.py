"""What tests share: the recorded numbers, and one bundle that is exported once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
NANO = DATA / "nano_07b_merged_all.pt"

Golden = Mapping[str, NDArray[Any]]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep records of verified bundles out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def golden() -> dict[str, NDArray[Any]]:
    """Return the arrays that were recorded from the published code."""
    with np.load(DATA / "nano_07b_golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory, cache_home: Path) -> Path:
    """Export the nano checkpoint with the real command, with the VAE's encoder; the slow part."""
    from hummingbird_edge.export.cli import main

    out = tmp_path_factory.mktemp("bundles") / "nano"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hb-export", "build", str(NANO), str(out), "--vae-encoder"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return out


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
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONUTF8": "1", "COLUMNS": "200"},
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def interrupted_run() -> Callable[..., tuple[int, str]]:
    """Return a function that starts `hb-run`, presses Ctrl-C at a line of stderr, and waits."""

    def run(*arguments: object, at: str) -> tuple[int, str]:
        process = subprocess.Popen(
            command_line("hb-run", *arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if at in line:
                process.send_signal(signal.SIGINT)
                break
        lines += process.stderr.readlines()
        process.stderr.close()
        return process.wait(timeout=60), "".join(lines)

    return run


def command_line(name: str, *arguments: object) -> list[str]:
    """Return how to start a command with this interpreter, whether or not it is installed."""
    package = {"hb-run": "runtime", "hb-export": "export"}[name]
    program = f"from hummingbird_edge.{package}.cli import main; main()"
    return [sys.executable, "-c", program, *(str(argument) for argument in arguments)]
