"""Captions that a language model writes anew, by an endpoint like OpenAI's."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.distill.curation.enrich import ATTEMPTS, KEY, ChatEnricher, Enrich
from hummingbird_edge.runtime.errors import DeviceError, RequestError


class Endpoint(BaseHTTPRequestHandler):
    """A real HTTP peer that answers as OpenAI's chat endpoint does."""

    asked: ClassVar[list[dict[str, object]]] = []
    together = threading.Barrier(4)
    odd: ClassVar[dict[str, str]] = {
        "bad": '{"error": "x"}',
        "deep": "[" * 60_000,
        "long": " " * (2 << 20) + "{}",
        "half": '{"choices": [{"message": {"content": "a star \\ud83d"}}]}',
    }

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({**body, "key": self.headers["Authorization"], "path": self.path})
        if body["model"] == "together":
            self.together.wait(timeout=20)
        if body["model"] == "down" or (body["model"] == "busy" and len(self.asked) == 1):
            self.send_error(503)
            return
        caption = body["messages"][1]["content"]
        message = {"content": f" {caption}, seen\nfrom afar "}
        answer = json.dumps({"choices": [{"message": message}]})
        answer = self.odd.get(body["model"], answer)
        self.send_response(200)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_language_model_can_rewrite(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    assert ChatEnricher(endpoint, "good")("a red star") == ("a red star, seen from afar",)
    (asked,) = Endpoint.asked
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", "Bearer secret")
    for model, said in (
        ("bad", ""),
        ("deep", ".*recursion"),
        ("long", ".*more than 1048576 bytes"),
    ):
        with pytest.raises(DeviceError, match=f"gave no caption{said}"):
            ChatEnricher(endpoint, model)("a red star")
    assert ChatEnricher(endpoint, "half")("a red star") == ("a star ?",)


def test_a_busy_endpoint_is_asked_again(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hummingbird_edge.distill.curation.enrich._WAIT_S", 0.01)
    assert ChatEnricher(endpoint, "busy")("a red star") == ("a red star, seen from afar",)
    assert len(Endpoint.asked) == 2
    with pytest.raises(DeviceError, match=r"gave no caption \(HTTP Error 503"):
        ChatEnricher(endpoint, "down")("a red star")
    assert len(Endpoint.asked) == 2 + ATTEMPTS


def test_captions_are_asked_for_several_at_a_time_and_once(endpoint: str) -> None:
    """The endpoint answers none before it was asked for four."""
    texts = ("a", "b", "c", "d", "a")
    clips = [Candidate(f"{n}.mp4", "", "", (text,)) for n, text in enumerate(texts)]
    enriched = list(Enrich(ChatEnricher(endpoint, "together"))(clips))
    assert [clip.enriched for clip in enriched] == [(t, f"{t}, seen from afar") for t in texts]
    assert len(Endpoint.asked) == 4


def test_endpoints_that_are_none_are_refused() -> None:
    with pytest.raises(RequestError, match="is no endpoint"):
        ChatEnricher("file:///etc/passwd")
    with pytest.raises(DeviceError, match="gave no caption"):
        ChatEnricher("http://127.0.0.1:9/v1", timeout_s=2)("a red star")
