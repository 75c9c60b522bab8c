"""The answer that is a file, without a server."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from hummingbird_edge.serve.app import make_app
from hummingbird_edge.serve.schema import CreateBody
from hummingbird_edge.serve.service import Service


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_file_that_is_deleted_meanwhile_is_not_found(
    service: Service, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    """It is gone before the answer looks at it, or before it opens it."""
    key = service.create(CreateBody(prompt="a red circle")).id
    service.jobs.update(key, status="completed")
    path = service.store.of(key) / "video.mp4"
    path.parent.mkdir()
    path.write_bytes(b"ftyp")

    async def vanish(*arguments: Any, **more: Any) -> Any:
        raise FileNotFoundError

    if is_seen:
        monkeypatch.setattr(anyio, "open_file", vanish)
    else:
        path.unlink()
        monkeypatch.setattr(Path, "is_file", lambda self: True)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(f"/v1/videos/{key}/content")

    answer = asyncio.run(ask())
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "the video's file is gone: make it again"
