"""The official clients: OpenAI's for videos, the SDK's for the Model Context Protocol."""

import asyncio
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.serve.store import Store

pytestmark = pytest.mark.slow
Server = Any
PROGRAM = "from hummingbird_edge.serve.cli import main; main()"
MULTIPLE = f"a multiple of {Bundle.open(BUILTIN).manifest.model.size_divisor}"
LONG = {"prompt": "a red circle", "num_frames": 32, "num_inference_steps": 50}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_client(server: Server, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as client:
        video = client.videos.create_and_poll(
            model=Bundle.open(BUILTIN).manifest.name,
            prompt="a red circle moving right",
            seconds="1",
            size="32x32",
            poll_interval_ms=50,
        )
        assert (video.status, video.size, video.seconds) == ("completed", "32x32", "1")
        client.videos.download_content(video.id).write_to_file(tmp_path / "video.mp4")
        assert b"ftyp" in (tmp_path / "video.mp4").read_bytes()[:12]
        small = client.videos.download_content(video.id, variant="thumbnail").read()
        assert b"WEBP" in small[:12]
        other = client.videos.remix(video.id, prompt="a blue square")
        assert other.remixed_from_video_id == video.id
        assert [each.id for each in client.videos.list(limit=2)][:2] == [other.id, video.id]
        assert client.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError, match="may be deleted"):
            client.videos.retrieve(video.id)
        with pytest.raises(openai.BadRequestError, match="text alone"):
            client.videos.create(prompt="a", input_reference=b"\x89PNG")


def test_mcp_over_http(server: Server) -> None:
    from mcp.client.client import Client

    async def talk() -> None:
        async with Client(f"http://127.0.0.1:{server.port}/mcp") as client:
            await _use(client)

    _run(talk())


def test_mcp_over_stdio(tmp_path: Path) -> None:
    from mcp.client.client import Client
    from mcp.client.stdio import stdio_client

    async def talk() -> None:
        async with Client(stdio_client(_stdio(tmp_path / "data"))) as client:
            video = await _use(client)
            assert b"ftyp" in Path(video["file"]).read_bytes()[:12]

    _run(talk())


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("is_stopped", [False, True])
def test_who_gives_up_cancels_and_a_stop_does_not(
    start: Callable[..., Server], mode: str, is_stopped: bool
) -> None:
    """Over HTTP, in the protocol's two forms: with sessions and without."""
    from mcp.client.client import Client

    server, answers = start(), list[Any]()

    async def talk() -> None:
        async with Client(f"http://127.0.0.1:{server.port}/mcp", mode=mode) as client:
            waiting = asyncio.create_task(client.call_tool("make_video", LONG))
            await _until(server.folder, "in_progress")
            if is_stopped:
                await asyncio.to_thread(server.stop)
                answers.append(await waiting)
            else:
                waiting.cancel()
                await _until(server.folder, "cancelled")

    with suppress(Exception) if is_stopped else nullcontext():  # it talks to nobody at the end
        _run(talk())
    assert _status(server.folder) == ("queued" if is_stopped else "cancelled")
    if is_stopped:
        assert "goes on when it is started again" in answers[0].content[0].text


@pytest.mark.parametrize("is_closed", [False, True])
def test_over_stdio_a_request_is_taken_back_and_an_end_is_a_stop(
    tmp_path: Path, is_closed: bool
) -> None:
    from mcp.client.client import Client
    from mcp.client.stdio import stdio_client

    folder = tmp_path / "data"

    async def talk() -> None:
        async with Client(stdio_client(_stdio(folder))) as client:
            waiting = asyncio.create_task(client.call_tool("make_video", LONG))
            await _until(folder, "in_progress")
            if not is_closed:
                waiting.cancel()
                await _until(folder, "cancelled")
        await asyncio.gather(waiting, return_exceptions=True)

    _run(talk())
    assert _status(folder) == ("queued" if is_closed else "cancelled")


def test_mcp_tells_what_was_wrong_in_a_sentence(server: Server) -> None:
    from mcp.client.client import Client

    async def talk() -> None:
        async with Client(f"http://127.0.0.1:{server.port}/mcp") as client:
            assert client.server_info is not None
            assert client.server_info.version == version("hummingbird-edge")
            for arguments, sentence in (
                ({}, "prompt is missing: it is required"),
                ({"prompt": "a", "seed": "x"}, "seed is 'x': it should be a valid integer"),
                ({"prompt": "a", "size": "big"}, "size is 'big': write WIDTHxHEIGHT"),
                ({"prompt": "a", "size": "17x17"}, MULTIPLE),
            ):
                refused: Any = await client.call_tool("make_video", arguments)
                assert refused.is_error
                text = refused.content[0].text
                assert sentence in text
                assert "pydantic" not in text
                assert "\n" not in text

    _run(talk())


async def _until(folder: Path, status: str) -> None:
    """Wait until the one video has this status."""
    end = time.monotonic() + 120
    while _status(folder) != status:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def _status(folder: Path) -> str | None:
    with closing(Store.open(folder, 0).jobs()) as jobs:
        return next((job.status for job in jobs.page(None, 1)), None)


def _stdio(folder: Path) -> Any:
    """Return how a client starts a server of its own."""
    from mcp.client.stdio import StdioServerParameters

    options = ["--mcp", "--device", "cpu", "--data", str(folder)]
    return StdioServerParameters(
        command=sys.executable, args=["-c", PROGRAM, *options], env=dict(os.environ)
    )


async def _use(client: Any) -> dict[str, Any]:
    tools = {tool.name for tool in (await client.list_tools()).tools}
    assert tools == {"make_video", "get_video", "list_videos", "list_models"}
    told: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    arguments = {"prompt": "a red circle", "num_frames": 2, "num_inference_steps": 3}
    made = await client.call_tool("make_video", arguments, progress_callback=hear)
    video = _content(made)
    assert video["status"] == "completed"
    assert len(told) >= 2
    assert told == sorted(told)
    assert _content(await client.call_tool("get_video", {"video_id": video["id"]})) == video
    listed = _content(await client.call_tool("list_videos", {"limit": 1}))
    assert [each["id"] for each in listed["data"]] == [video["id"]]
    models = _content(await client.call_tool("list_models", {}))
    assert models["data"][0]["default"]
    refused = await client.call_tool("make_video", {"prompt": "a", "size": "17x17"})
    assert refused.is_error
    assert MULTIPLE in refused.content[0].text
    return video


def _content(result: Any) -> dict[str, Any]:
    assert not result.is_error, result
    found: dict[str, Any] = result.structured_content or json.loads(result.content[0].text)
    return found


def _run(work: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's own
        asyncio.run(asyncio.wait_for(work, 240))
