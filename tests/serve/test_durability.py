"""Nothing is lost: kills, restarts, a store and a disk that are full.

HUMMINGBIRD_SOAK=1 adds the long runs: thirty kills, three hundred jobs.
"""

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN

pytestmark = pytest.mark.slow
Server = Any
SOAK = pytest.mark.skipif("HUMMINGBIRD_SOAK" not in os.environ, reason="long: HUMMINGBIRD_SOAK=1")


def test_a_killed_worker_is_replaced(start: Callable[..., Server]) -> None:
    server = start()
    video = server.create(num_frames=4, num_inference_steps=20, seed=4)
    while (server.video(video["id"])["step"] or 0) < 5:
        time.sleep(0.01)
    (worker,) = server.workers()
    worker.kill()
    done = server.wait(video["id"])
    plain = server.wait(server.create(num_frames=4, num_inference_steps=20, seed=4)["id"])
    assert _file(server, done) == _file(server, plain)  # to the last byte
    assert done["timings"]["unet"] < plain["timings"]["unet"] * 3


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_outlast_the_server(start: Callable[..., Server], how: int) -> None:
    server = start()
    first = server.wait(server.create(seed=1)["id"])
    before = _file(server, first)
    running = server.create(num_frames=4, num_inference_steps=20)
    queued = [server.create(seed=seed)["id"] for seed in range(3)]
    while (server.video(running["id"])["step"] or 0) < 2:
        time.sleep(0.01)
    workers = server.workers()
    server.stop(how)
    psutil.wait_procs(workers, 10)
    assert not any(worker.is_running() for worker in workers)
    again = start()
    for key in (running["id"], *queued):
        again.wait(key)
    assert _file(again, first) == before
    assert len(again.client.get("/v1/videos").json()["data"]) == 5


def test_a_worker_of_before_is_not_waited_for(start: Callable[..., Server]) -> None:
    """It is amid a step while another server has the video made, and ends later."""
    server = start()
    video = server.create(num_frames=4, num_inference_steps=20, seed=4)
    while (server.video(video["id"])["step"] or 0) < 2:
        time.sleep(0.01)
    (before,) = server.workers()
    before.suspend()
    while _is_locked(server.folder / "jobs.sqlite"):
        before.resume()
        before.suspend()
    server.stop(signal.SIGKILL)
    try:
        again = start()
        done = again.wait(video["id"], seconds=60)
        content = _file(again, done)
    finally:
        with suppress(psutil.NoSuchProcess):  # systems may end a stopped process whose parent ends
            before.resume()
            before.wait(20)
    assert again.video(video["id"]) == done
    assert _file(again, done) == content


def _is_locked(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=0)) as file:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def test_what_kills_every_worker_fails(start: Callable[..., Server]) -> None:
    server = start()
    video = server.create(num_frames=32, num_inference_steps=50, size="256x256")
    end = time.monotonic() + 120
    while (found := server.video(video["id"]))["status"] != "failed":
        assert time.monotonic() < end
        if found["status"] == "in_progress" and found["stage"] is None:
            for worker in server.workers():
                with suppress(psutil.Error):
                    worker.kill()
        time.sleep(0.005)
    assert found["error"]["code"] == "worker_ended"
    server.wait(server.create()["id"])


def test_the_oldest_make_room_and_pinned_ones_stay(start: Callable[..., Server]) -> None:
    server = start("--max-store", "0.0001GB")  # 100 kB: some five videos
    pinned = server.wait(server.create(seed=0)["id"])["id"]
    server.client.post(f"/v1/videos/{pinned}/pin", json={"pinned": True})
    keys = [server.create(seed=seed)["id"] for seed in range(1, 12)]
    server.wait(keys[-1])
    time.sleep(1.5)
    videos = server.client.get("/v1/videos?limit=100").json()["data"]
    left = [video["id"] for video in videos]
    assert pinned in left
    assert keys[0] not in left
    assert keys[-1] in left
    assert sum(video["bytes"] for video in videos) <= 100_000
    assert {path.name for path in (server.folder / "videos").iterdir()} == set(left)


def test_the_queue_is_bounded(start: Callable[..., Server]) -> None:
    server = start("--max-queue", "3")
    body = {"prompt": "a red circle", "num_frames": 32, "num_inference_steps": 50}
    statuses = [server.client.post("/v1/videos", json=body).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    answer = server.client.post("/v1/videos", json=body)
    assert answer.headers["retry-after"]
    assert "wait until one is made" in answer.json()["error"]["message"]


def test_two_processes_share_a_folder(start: Callable[..., Server]) -> None:
    """One has the workers; the other takes over when it is killed."""
    one = start()
    other = start(folder=one.folder)
    assert not other.workers()
    video = other.wait(other.create()["id"])
    assert one.video(video["id"]) == video
    one.stop(signal.SIGKILL)
    other.wait(other.create()["id"])


def test_what_the_one_with_the_workers_lacks_waits(start: Callable[..., Server]) -> None:
    """A process that takes over for a moment must not fail the queue of another."""
    one = start()
    other = start("--bundle", f"two={BUILTIN}", folder=one.folder)
    key = other.create()["id"]
    one.wait(one.create()["id"])
    assert other.video(key)["status"] == "queued"
    one.stop()
    other.wait(key)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 30 MB, where the system lets us."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_a_sentence(start: Callable[..., Server], small_disk: Path) -> None:
    server = start(folder=small_disk / "data")
    first = server.wait(server.create()["id"])
    running = server.create(num_frames=4, num_inference_steps=20)
    server.wait(running["id"], "in_progress")
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    answer = server.client.post("/v1/videos", json={"prompt": "a"})
    assert answer.status_code == 507
    assert "free some space" in answer.json()["error"]["message"]
    for _ in range(20):  # reading goes on
        assert server.client.get(f"/v1/videos/{first['id']}/content").status_code == 200
        assert server.client.get(f"/v1/videos/{running['id']}").status_code == 200
        time.sleep(0.1)
    filler.unlink()
    end = time.monotonic() + 120
    while server.video(running["id"])["status"] not in ("completed", "failed"):
        assert time.monotonic() < end
        time.sleep(0.1)
    server.wait(server.create()["id"])


def test_a_file_of_a_newer_release_is_left_alone(tmp_path: Path, hb: Any) -> None:
    with sqlite3.connect(tmp_path / "jobs.sqlite") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    done = hb("hb-serve", "--data", tmp_path)
    assert done.returncode == 1
    assert "newer release" in done.stderr
    assert "Traceback" not in done.stderr


@SOAK
def test_thirty_kills_lose_nothing(start: Callable[..., Server]) -> None:
    """Of the server, a worker, or both, at random moments, with ten jobs queued."""
    draw, server = random.Random(7), start()
    finished: dict[str, bytes] = {}
    for round_number in range(30):
        keys = [server.create(num_frames=4, num_inference_steps=8)["id"] for _ in range(10)]
        time.sleep(draw.uniform(0, 2.5))
        victim = ("server", "worker", "both")[round_number % 3]
        workers = server.workers()
        if victim != "server":
            for worker in workers:
                worker.kill()
        if victim != "worker":
            server.stop(signal.SIGKILL)
            server = start()
        for key in keys:
            finished[key] = _file(server, server.wait(key))
        for key, content in list(finished.items())[-40:]:
            assert _file(server, server.video(key)) == content
        print(f"round {round_number}: {victim} killed, all made", flush=True)
    assert len(finished) == 300


def _file(server: Server, video: dict[str, Any]) -> bytes:
    answer = server.client.get(f"/v1/videos/{video['id']}/content?format=webp")
    assert answer.status_code == 200
    return bytes(answer.content)
