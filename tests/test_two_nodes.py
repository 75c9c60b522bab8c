"""One stage trained by two nodes, one of which is lost: `torchrun` on two loopback addresses."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hummingbird_edge.distill.train.run import Run
from tests.tiny_distill import SAVE_EVERY

pytestmark = [
    pytest.mark.slow,  # trains
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8"),
]

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
STEPS = 4 * SAVE_EVERY
SCRIPT = Path(__file__).with_name("tiny_distill.py")
TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True)
class Agent:
    """`torchrun` on one node."""

    process: "subprocess.Popen[bytes]"
    output: Path

    def end(self) -> tuple[int, str]:
        """Wait for its end; returns its status and what it said."""
        return self.process.wait(TIMEOUT_S), self.output.read_text(encoding="utf-8")

    def wait_for_step(self, run: Path, step: int) -> None:
        """Wait until the run has come to a step."""
        deadline = time.monotonic() + TIMEOUT_S
        while max([0, *losses(run)]) < step:
            assert self.process.poll() is None, self.end()[1]
            assert time.monotonic() < deadline, f"no step {step} in {TIMEOUT_S} s"
            time.sleep(0.005)

    def kill(self) -> None:
        """End it and what it started at once, as a power cut does."""
        tree = list[psutil.Process]()
        with suppress(psutil.NoSuchProcess):
            agent = psutil.Process(self.process.pid)
            tree = [agent, *agent.children(recursive=True)]
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()


@contextmanager
def launched(run: Path, *options: str) -> Iterator[Agent]:
    """Start an agent that trains the autoencoder; what is left of it at the end is killed."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(SCRIPT)]
    command += ["autoencoder", str(run), "--steps", str(STEPS), "--seed", "5"]
    output = run / f"agent-{len(list(run.glob('agent-*')))}"
    with output.open("wb") as file:
        environment = {
            **os.environ,
            # Else a node that comes back waits for an address that the other one told only once.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            # With more threads, sums have another order.
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        agent = Agent(process, output)
    try:
        yield agent
    finally:
        agent.kill()


def node(run: Path, port: int, address: str, restarts: int = 3) -> Any:
    """Start a node by the command of docs/training.md."""
    return launched(
        run,
        *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", str(restarts)),
        *("--rdzv-backend", "c10d", "--rdzv-id", "mine", "--rdzv-endpoint", f"{FIRST}:{port}"),
        # Here both are this machine, so that neither can tell whose the endpoint is; and three
        # seconds without a sign of life are enough.
        *("--local-addr", address),
        *("--rdzv-conf", f"is_host={int(address == FIRST)},keep_alive_interval=1"),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that two processes of one machine trained, undisturbed."""
    run = tmp_path_factory.mktemp("whole")
    with launched(run, "--standalone", "--nproc-per-node", "2") as agent:
        status, said = agent.end()
    assert status == 0, said
    return run


@pytest.fixture
def port() -> int:
    """Return a port that is free on every address."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def losses(run: Path) -> dict[int, float]:
    """Return the loss that was last logged of each step."""
    return {e["step"]: e["loss"] for e in Run(run, "autoencoder").entries() if "loss" in e}


def starts(run: Path) -> list[int]:
    """Return the step at which each session began."""
    return [entry["step"] for entry in Run(run, "autoencoder").entries() if "seed" in entry]


def assert_same_end(run: Path, whole: Path) -> None:
    """Two processes ended with the weights and the checkpoint of the undisturbed run."""
    ends = [(folder / f"process-{rank}").read_text() for folder in (run, whole) for rank in (0, 1)]
    assert ends == ends[:1] * 4
    assert ends[0].startswith("2 ")
    assert losses(run) == losses(whole)
    found, expected = Run(run, "autoencoder").load(), Run(whole, "autoencoder").load()
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_lost_node_rejoins_from_the_checkpoint(whole: Path, tmp_path: Path, port: int) -> None:
    run = tmp_path
    with node(run, port, FIRST) as first:
        with node(run, port, SECOND) as second:
            second.wait_for_step(run, SAVE_EVERY + SAVE_EVERY // 2)
            second.kill()
        with node(run, port, SECOND) as second:
            assert second.end()[0] == 0, second.end()[1]
        status, said = first.end()
    assert status == 0, said
    assert "another process of this run is gone" in said
    begun, resumed = starts(run)
    assert begun == 0
    assert SAVE_EVERY <= resumed < STEPS
    assert resumed % SAVE_EVERY == 0
    assert_same_end(run, whole)


def test_without_the_first_node_both_start_again(whole: Path, tmp_path: Path, port: int) -> None:
    """It has the rendezvous: the other one ends, and the same two commands go on."""
    run = tmp_path
    with node(run, port, FIRST) as first, node(run, port, SECOND) as second:
        first.wait_for_step(run, SAVE_EVERY + SAVE_EVERY // 2)
        first.kill()
        assert second.end()[0] != 0
    with node(run, port, FIRST) as first, node(run, port, SECOND) as second:
        assert first.end()[0] == 0, first.end()[1]
        assert second.end()[0] == 0, second.end()[1]
    assert starts(run)[1] >= SAVE_EVERY
    assert_same_end(run, whole)


def test_nodes_with_folders_of_their_own_are_refused(
    whole: Path, tmp_path: Path, port: int
) -> None:
    """One has a checkpoint, the other has none: they would wait for each other for ever."""
    own, shared = tmp_path / "own", shutil.copytree(whole, tmp_path / "shared")
    own.mkdir()
    with (
        node(shared, port, FIRST, restarts=0) as first,
        node(own, port, SECOND, restarts=0) as second,
    ):
        for agent in (first, second):
            status, said = agent.end()
            assert status != 0
            assert f"process 0 is at step {STEPS} of autoencoder, process 1 at step 0" in said
            assert "give all machines the same folder" in said
    assert losses(own) == {}
