"""Many clients, many requests, many videos: nothing lost, nothing slow, nothing that grows.

HUMMINGBIRD_SOAK=1 runs it at full length.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = pytest.mark.slow
Server = Any
IS_LONG = "HUMMINGBIRD_SOAK" in os.environ
CLIENTS, JOBS = (20, 300) if IS_LONG else (4, 12)
MAX_P95_S = 0.05 if IS_LONG else 1.0
VIDEOS, WARM = int(os.environ.get("HUMMINGBIRD_SOAK_VIDEOS", "1000")), 50
LONG = pytest.mark.skipif(not IS_LONG, reason="long: HUMMINGBIRD_SOAK=1")
SMALL = {"prompt": "a red circle", "num_frames": 2, "num_inference_steps": 1}


def test_many_clients_get_what_they_asked_for(start: Callable[..., Server]) -> None:
    server = start("--max-queue", str(JOBS))
    made: dict[str, int] = {}
    status_s: list[float] = []

    def work(number: int) -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=240) as client:
            keys = {}
            for index in range(number, JOBS, CLIENTS):
                keys[client.post("/v1/videos", json={**SMALL, "seed": index}).json()["id"]] = index
            for key, index in keys.items():
                while True:
                    started = time.perf_counter()
                    video = client.get(f"/v1/videos/{key}").json()
                    status_s.append(time.perf_counter() - started)
                    if video["status"] == "completed":
                        break
                    time.sleep(0.1)
                assert video["seed"] == index
                assert client.get(f"/v1/videos/{key}/content").content[4:8] == b"ftyp"
            made.update(keys)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    (worker,) = server.workers()
    sizes = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        sizes.append(worker.memory_info().rss >> 20)
    assert sorted(made.values()) == list(range(JOBS))
    text = server.client.get("/metrics").text
    assert f'hummingbird_videos{{status="completed"}} {JOBS}.0' in text
    status_s.sort()
    p50, p95 = (status_s[int(share * len(status_s))] for share in (0.5, 0.95))
    rss = psutil.Process(server.process.pid).memory_info().rss >> 20
    print(f"{len(status_s)} status calls, p50 {1e3 * p50:.1f} ms, p95 {1e3 * p95:.1f} ms")
    print(f"worker {sizes[len(sizes) // 10]} MB early, {sizes[-1]} late; server {rss} MB")
    assert p95 < MAX_P95_S
    if IS_LONG:
        assert sizes[-1] < 1.1 * sizes[len(sizes) // 10] + 10


@LONG
def test_memory_stays(start: Callable[..., Server]) -> None:
    """A day's work, 1,000 small videos with a page that listens: no process grows beyond 5 %.

    HUMMINGBIRD_SOAK_VIDEOS makes it shorter.
    """
    server = start()

    def listen() -> None:
        url = f"http://127.0.0.1:{server.port}/v1/events"
        with suppress(httpx.TransportError), httpx.stream("GET", url, timeout=None) as stream:
            for _ in stream.iter_raw():
                pass

    threading.Thread(target=listen, daemon=True).start()
    processes = {"server": psutil.Process(server.process.pid)}
    early, late = dict[str, int](), dict[str, int]()
    for number in range(1, VIDEOS + 1):
        key = server.create(seed=number)["id"]
        server.wait(key)
        assert server.client.get(f"/v1/videos/{key}/content").content[4:8] == b"ftyp"
        (processes["worker"],) = server.workers()
        sizes = {name: process.memory_info().rss for name, process in processes.items()}
        if number == WARM:
            early = sizes
        if number > WARM:
            late = {name: max(size, late.get(name, 0)) for name, size in sizes.items()}
        if number % 50 == 0:
            print(
                number, {name: f"{size / 1e6:.1f} MB" for name, size in sizes.items()}, flush=True
            )
    for name, size in early.items():
        print(f"{name}: {size / 1e6:.1f} MB after {WARM}, then {late[name] / 1e6:.1f} at most")
        assert late[name] <= 1.05 * size


@LONG
def test_the_document_holds(start: Callable[..., Server], tmp_path: Path) -> None:
    """Schemathesis makes 5,000 requests of the OpenAPI document."""
    program = shutil.which("schemathesis", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("pip install schemathesis")
    server = start("--max-queue", "1")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    command = [program, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", checks]
    command += ["--exclude-path-regex", "events$|/sync$", "--max-examples", "450", "--seed", "1"]
    command += ["--request-timeout", "30", "--workers", "2", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    print(done.stdout[-4000:])
    assert done.returncode == 0
    made = re.search(r"([\d,]+) generated", done.stdout)
    assert made
    assert int(made[1].replace(",", "")) >= 5000
