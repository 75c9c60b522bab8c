"""The Model Context Protocol: tools by which assistants make videos on this machine.

Over stdio (`hb-serve --mcp`) or streamable HTTP (`/mcp`). Source: modelcontextprotocol.io.
"""

import asyncio
from importlib.metadata import version
from typing import Annotated, Any

from mcp.server.context import CallNext, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field, ValidationError

from hummingbird_edge.runtime.request import MAX_PROMPT
from hummingbird_edge.serve.answers import invalid
from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import CreateBody

__all__ = ["make_mcp"]

_INSTRUCTIONS = (
    "Makes short videos from prompts on the user's own machine. The built-in model knows cartoons "
    "of forty things; list_models says which models there are and what they allow."
)


class _Tools(MCPServer[Any]):
    """Tells assistants what was wrong in our own sentence, where the SDK tells little or much."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context | None = None
    ) -> Any:
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                cause = invalid(cause)
            if isinstance(cause, Problem):
                raise ToolError(cause.message) from cause
            raise


def make_mcp(events: Events, is_stdio: bool = False) -> MCPServer[Any]:
    """Return the protocol's server; over stdio it is its client's own, on the same machine."""
    service = events.service
    waiting: dict[str, str] = {}
    """Request to the video that it waits for, over stdio."""

    async def heed(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> Any:
        """Cancel the video of a request that is taken back."""
        if ctx.method == "notifications/cancelled":
            key = waiting.get(str((ctx.params or {}).get("requestId")))
            if key is not None:
                service.jobs.cancel(key)
        return await call_next(ctx)

    server = _Tools(
        "hummingbird-edge",
        version=version("hummingbird-edge"),
        instructions=_INSTRUCTIONS,
        log_level="ERROR",
        middleware=[heed],
    )

    def shown(job: Job) -> dict[str, Any]:
        entries = job.model_dump()
        if job.status == "completed":
            entries["content"] = f"/v1/videos/{job.id}/content"
            if is_stdio:
                entries["file"] = str(service.store.of(job.id) / "video.mp4")
        return entries

    async def finished(key: str, context: Context) -> Job:
        """Wait until a video is made, and tell of its progress; who gives up cancels it."""
        told = -1
        if is_stdio:
            waiting[context.request_id] = key
        try:
            async for job in events.follow(key):
                if job.progress > told:
                    told = job.progress
                    await context.report_progress(told, 100, job.stage or job.status)
        except asyncio.CancelledError:
            # Over stdio the request was taken back, or input and server end, which is no reason.
            if not (is_stdio or service.is_stopping()):
                service.jobs.cancel(key)
            raise
        return job

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
        body = {name: given[name] for name in CreateBody.model_fields if name in given}
        job = service.create(CreateBody.model_validate(body))
        return shown(await finished(job.id, context) if wait else job)

    @server.tool()
    async def get_video(video_id: str) -> dict[str, Any]:
        """Return how a video stands, and where its file is when it is done."""
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
