"""A server as its users start it: a process, with a folder of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from hummingbird_edge.serve.models import open_models
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.store import Store

PROGRAM = "from hummingbird_edge.serve.cli import main; main()"
DEVICE = ("--device", "cpu")
"""It has nothing to compile."""
TERMINATED = 143
"""The status of every command that SIGTERM ended in order."""
SMALL = {"prompt": "a red circle moving right", "num_frames": 2, "num_inference_steps": 1}


@dataclass(slots=True)
class Server:
    """A running server."""

    process: "subprocess.Popen[bytes]"
    port: int
    folder: Path
    options: tuple[str, ...]
    client: httpx.Client

    def workers(self) -> list[psutil.Process]:
        """Return its worker processes."""
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children()
        return []

    def create(self, **body: Any) -> dict[str, Any]:
        """Queue a video."""
        answer = self.client.post("/v1/videos", json={**SMALL, **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def video(self, key: str) -> dict[str, Any]:
        """Return a video."""
        answer = self.client.get(f"/v1/videos/{key}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, key: str, *statuses: str, seconds: float = 240) -> dict[str, Any]:
        """Wait until a video has one of these statuses, `completed` for none."""
        end = time.monotonic() + seconds
        while (video := self.video(key))["status"] not in (statuses or ("completed",)):
            assert video["status"] != "failed", video
            assert time.monotonic() < end, video
            time.sleep(0.03)
        return video

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it and return its status."""
        self.client.close()
        self.process.send_signal(how)
        return self.process.wait(20)


def start_server(folder: Path, *options: str, port: int = 0, **environment: str) -> Server:
    """Start a server and wait until it answers."""
    port = port or free_port()
    log = folder.parent / f"{folder.name}.log"
    command = [sys.executable, "-c", PROGRAM, "--data", str(folder), "--port", str(port)]
    own = {**os.environ, **environment}
    with log.open("ab") as errors:
        process = subprocess.Popen([*command, *DEVICE, *options], stderr=errors, env=own)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240)
    end = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text("utf-8")
        try:
            if client.get("/healthz").status_code == 200:
                return Server(process, port, folder, options, client)
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, cache_home: Path) -> Iterator[Server]:
    """Start one server for all tests that do not need their own."""
    found = start_server(tmp_path_factory.mktemp("server") / "data")
    yield found
    assert found.stop() == TERMINATED


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server, by default on the test's folder."""
    running: list[Server] = []

    def begin(*options: str, folder: Path | None = None, **more: Any) -> Server:
        running.append(start_server(folder or tmp_path / "data", *options, **more))
        return running[-1]

    yield begin
    for each in running:
        if each.process.poll() is None:
            each.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Return what users can do, with the built-in model."""
    found = Service(Store.open(tmp_path, 1 << 30), open_models([]), ("cpu",), None, 100)
    with closing(found.jobs):
        yield found
