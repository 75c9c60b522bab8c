"""Who may ask what: names, origins, tokens, paths, sizes and patience."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import DEVICE, PROGRAM, free_port

pytestmark = pytest.mark.slow  # starts servers
Server = Any


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "["])
def test_a_rebound_name_is_refused(server: Server, host: str) -> None:
    for path in ("/", "/v1/videos", "/mcp", "/healthz"):
        answer = server.client.get(path, headers={"host": f"{host}:{server.port}"})
        assert answer.status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_own_names_are_not(server: Server, host: str) -> None:
    answer = server.client.get("/v1/videos", headers={"host": f"{host}:{server.port}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_another_sites_page_is_refused(server: Server, headers: dict[str, str]) -> None:
    before = server.client.get("/v1/videos").json()["first_id"]
    kinds = ("application/json", "text/plain", "application/x-www-form-urlencoded")
    for kind in kinds:
        answer = server.client.post(
            "/v1/videos", content=b'{"prompt": "a"}', headers={**headers, "content-type": kind}
        )
        assert answer.status_code == 403
    assert server.client.get("/v1/videos", headers=headers).status_code == 403
    assert server.client.get("/v1/videos").json()["first_id"] == before


def test_the_own_page_is_not(server: Server) -> None:
    origin = {"origin": f"http://127.0.0.1:{server.port}", "sec-fetch-site": "same-origin"}
    assert server.client.post("/v1/promise", json={"prompt": "a"}, headers=origin).is_success


def test_every_answer_has_the_policy(server: Server) -> None:
    for path in ("/", "/v1/videos", "/v1/none", "/static/none"):
        answer = server.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/../cli.py",
        "/static/%2e%2e/cli.py",
        "/static/..%2fcli.py",
        "/static/%2e%2e%5ccli.py",
        "/static//etc/passwd",
        "/static/%00",
        "/v1/videos/..%2f..%2fjobs.sqlite/content",
        "/v1/videos/%2e%2e/content",
        "/v1/videos/%00/content",
        "/v1/unfinished/..%2fx/resume",
        "/v1/videos/x/content?variant=../../jobs.sqlite",
    ],
)
def test_no_path_leaves_its_folder(server: Server, path: str) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port))) as line:
        method = "POST" if path.endswith("resume") else "GET"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        line.sendall(head.encode())
        answer = b"".join(iter(lambda: line.recv(1 << 16), b""))
    assert answer.split(b" ", 2)[1] in (b"400", b"404", b"405"), answer[:200]
    assert b"SQLite" not in answer
    assert b"root:" not in answer


def test_a_body_is_bounded(server: Server) -> None:
    large = b'{"prompt": "' + b"a" * (1 << 20) + b'"}'
    kind = {"content-type": "application/json"}
    assert server.client.post("/v1/videos", content=large, headers=kind).status_code == 413

    def pieces() -> Any:  # without a length
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    assert server.client.post("/v1/videos", content=pieces(), headers=kind).status_code == 413
    with_file = {"input_reference": ("a.png", large, "image/png")}
    answer = server.client.post("/v1/videos", data={"prompt": "a"}, files=with_file)
    assert answer.status_code == 413


def test_slow_clients_are_left(server: Server) -> None:
    """Heads and bodies that never end; meanwhile others are served."""
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\n"
    body = head + b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    for index, line in enumerate(lines):
        line.sendall(body if index % 2 else head)
    started = time.monotonic()
    assert server.client.get("/v1/videos").status_code == 200
    assert time.monotonic() - started < 5
    for index, line in enumerate(lines):
        line.settimeout(30)
        answer = b"".join(iter(lambda line=line: line.recv(1 << 16), b""))  # type: ignore[misc]
        assert (b" 408 " in answer) == bool(index % 2)
        line.close()
    assert time.monotonic() - started < 40


def test_other_machines_need_a_token(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--host", "0.0.0.0", "--token", "s3cret")
    plain = server.client
    assert plain.get("/healthz").status_code == 200
    for path in ("/", "/v1/videos", "/metrics", "/mcp", "/openapi.json", "/static/index.html"):
        assert plain.get(path).status_code == 401
        assert plain.get(path, headers={"authorization": "Bearer s3cres"}).status_code == 401
    assert plain.get("/v1/videos", headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert plain.get("/v1/videos", headers={"cookie": "hb_token=wrong"}).status_code == 401
    assert plain.get("/v1/videos", headers={"host": "evil.example"}).status_code == 421
    answer = plain.get("/?token=s3cret")
    cookie = answer.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert plain.get("/v1/videos").status_code == 200  # by the cookie
    server.stop()
    log = (tmp_path / "data.log").read_text(encoding="utf-8")
    assert "HUMMINGBIRD_TOKEN" in log  # where it is, not what
    assert "s3cret" not in log
    assert "goes on" not in log  # nothing was being made


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such terminals")
def test_a_terminal_is_told_the_token(tmp_path: Path) -> None:
    import pty

    terminal, end = pty.openpty()
    options = ["--token", "s3cret", "--port", str(free_port()), "--data", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *DEVICE, *options], stderr=end) as server:
        told = ""
        while "\n" not in told:
            told += os.read(terminal, 1000).decode()
        assert "/?token=s3cret" in told
        server.terminate()
    os.close(terminal)
    os.close(end)


def test_without_a_token_it_does_not_start(hb: Any, tmp_path: Path) -> None:
    done = hb("hb-serve", "--host", "0.0.0.0", "--data", tmp_path)
    assert done.returncode == 2
    assert "give --token too" in done.stderr
    assert "Traceback" not in done.stderr


def test_prompts_reach_no_log(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--verbose")
    secret = "an unmistakable turquoise walrus"
    key = server.create(prompt=secret)["id"]
    server.wait(key)
    for body in ({"prompt": secret, "size": secret}, {"prompt": secret, "more": secret}):
        server.client.post("/v1/videos", json=body)
    server.client.get("/v1/videos", params={"after": secret})
    server.stop()
    assert "walrus" not in (tmp_path / "data.log").read_text(encoding="utf-8")


def test_listeners_are_bounded(server: Server) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
        streams = [
            client.send(client.build_request("GET", "/v1/events"), stream=True) for _ in range(64)
        ]
        assert {stream.status_code for stream in streams} == {200}
        assert client.get("/v1/events").status_code == 503
        for stream in streams:
            stream.close()
