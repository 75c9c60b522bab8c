"""The image of the Dockerfile makes a video, where Docker is at hand."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "of-the-test"
SMALL = {"prompt": "a red circle moving right", "num_frames": 2, "num_inference_steps": 1}


def docker(*arguments: str) -> str:
    """Run docker and return what it prints."""
    command = ["docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def has_docker() -> bool:
    """Tell whether docker is there and its daemon answers."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """Build the image, start a container, and return a client of its server."""
    if not has_docker():
        pytest.skip("there is no Docker")
    image = docker("build", "--quiet", str(ROOT))
    secret = ("--env", f"HUMMINGBIRD_TOKEN={TOKEN}")
    container = docker("run", "--rm", "--detach", "--publish", "127.0.0.1::8765", *secret, image)
    try:
        address = docker("port", container, "8765/tcp").splitlines()[0]
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=f"http://{address}", headers=headers, timeout=240) as found:
            wait_for(found)
            yield found
    finally:
        docker("stop", container)
        docker("image", "rm", image)


def wait_for(client: httpx.Client) -> None:
    """Return when the server answers."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            if client.get("/healthz").status_code == 200:
                return
        time.sleep(0.2)
    pytest.fail("the server in the container does not answer")


@pytest.mark.slow
def test_the_image_makes_a_video(client: httpx.Client) -> None:
    answer = client.post("/v1/videos/sync", json=SMALL)
    assert answer.status_code == 200, answer.text
    assert answer.content[4:8] == b"ftyp"
    assert client.get("/v1/models", headers={"authorization": "Bearer other"}).status_code == 401
