"""A real server with the built-in model, and a real browser: Chromium, by Playwright."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HB_SERVE = "from hummingbird_edge.serve.cli import main; main()"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
STARTING_S = 180.0


# Playwright's event loop counts as running until its end: no other file's test could run one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Return a browser of Playwright's; skip where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = (shutil.which(name) for name in CHROMIUM)
    path = os.environ.get("HUMMINGBIRD_CHROMIUM") or next(filter(None, found), None)
    if path is None:
        pytest.skip("no Chromium here: install it, or give its path in HUMMINGBIRD_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        # Without a GPU, Chromium would otherwise emulate one, which takes as long as the model.
        args = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=args)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def studio(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run `hb-serve` with an empty store; return the studio's address."""
    pytest.importorskip("fastapi", reason='the server needs pip install ".[serve]"')
    folder = tmp_path_factory.mktemp("studio")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    options = ["--port", str(port), "--data", str(folder / "data"), "--device", "cpu"]
    command = [sys.executable, "-c", HB_SERVE, *options]
    with (folder / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_it_answers(server, address, folder / "log")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_it_answers(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Return once the server is there; fail with its log where it ends or takes too long."""
    deadline = time.monotonic() + STARTING_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"hb-serve did not start:\n{log.read_text(encoding='utf-8')}")
