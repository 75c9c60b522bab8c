"""The Model Context Protocol: tools by which assistants make videos on this machine.

Over stdio (`hb-serve --mcp`) or streamable HTTP (`/mcp`). Source: modelcontextprotocol.io.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field, ValidationError

from hummingbird_edge.runtime.request import MAX_PROMPT
from hummingbird_edge.serve.answers import invalid
from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.job import OPEN, Job
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import CreateBody

__all__ = ["make_mcp"]

_INSTRUCTIONS = (
    "Makes short videos from prompts on the user's own machine. The built-in model knows coloured "
    "shapes that move; list_models says which models there are and what they allow."
)


def make_mcp(events: Events, names_files: bool = False) -> MCPServer[Any]:
    """Return the protocol's server; `names_files` is for clients on this machine."""
    service = events.service
    server = MCPServer[Any]("hummingbird-edge", instructions=_INSTRUCTIONS, log_level="ERROR")

    def shown(job: Job) -> dict[str, Any]:
        entries = job.model_dump()
        if job.status == "completed":
            entries["content"] = f"/v1/videos/{job.id}/content"
            if names_files:
                entries["file"] = str(service.store.of(job.id) / "video.mp4")
        return entries

    @server.tool()
    async def make_video(
        context: Context,
        prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)],
        model: str | None = None,
        seconds: str | None = None,
        size: str | None = None,
        num_frames: int | None = None,
        fps: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        wait: bool = True,
    ) -> dict[str, Any]:
        """Make a video; with wait=false return at once, and get_video tells of it later."""
        given = locals()
        with _told():
            body = {name: given[name] for name in CreateBody.model_fields if name in given}
            job = service.create(CreateBody.model_validate(body))
            return shown(await _finished(events, job, context) if wait else job)

    @server.tool()
    async def get_video(video_id: str) -> dict[str, Any]:
        """Return how a video stands, and where its file is when it is done."""
        with _told():
            return shown(service.find(video_id))

    @server.tool()
    async def list_videos(limit: Annotated[int, Field(ge=1, le=100)] = 20) -> dict[str, Any]:
        """Return the newest videos."""
        return {"data": [shown(job) for job in service.jobs.page(None, limit)]}

    @server.tool()
    async def list_models() -> dict[str, Any]:
        """Return the models, with their defaults and limits."""
        return {"data": [each.model_dump(exclude={"card"}) for each in service.shown_models()]}

    return server


@contextmanager
def _told() -> Iterator[None]:
    """Tell the assistant what was wrong: of other exceptions the SDK tells nothing."""
    try:
        yield
    except Problem as problem:
        raise ToolError(problem.message) from problem
    except ValidationError as error:
        raise ToolError(invalid(error).message) from error


async def _finished(events: Events, job: Job, context: Context) -> Job:
    """Wait until a video is made, and tell of its progress; who gives up cancels it."""
    told = -1
    try:
        while job.status in OPEN:
            await events.wait()
            job = events.service.find(job.id)
            if job.progress > told:
                told = job.progress
                await context.report_progress(told, 100, job.stage or job.status)
    except asyncio.CancelledError:
        events.service.jobs.cancel(job.id)
        raise
    if job.error is not None:
        raise Problem(422, job.error.code, job.error.message)
    return job
