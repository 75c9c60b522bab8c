"""The application: routes, page, protocol, and what runs beside them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from hummingbird_edge.serve import machine, videos
from hummingbird_edge.serve.answers import add_handlers, refusals
from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.mcp_route import McpRoute
from hummingbird_edge.serve.metrics import Metrics
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.supervisor import at_work

__all__ = ["make_app"]

PAGE = Path(__file__).parent / "page"
_NOT_KEPT = {"cache-control": "no-cache"}
"""A browser asks each time whether a file is new."""


class _Page(StaticFiles):
    """The page's files."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return ("", None) if "\0" in path else super().lookup_path(path)

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(_NOT_KEPT)
        return answer


def make_app(service: Service) -> ASGIApp:
    """Return the server as an ASGI application that trusts whoever comes."""
    events = Events(service)
    mcp, metrics = McpRoute(events), Metrics(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with at_work(events):
            yield
            await mcp.stop()

    app = FastAPI(
        title="Hummingbird Edge",
        version=version("hummingbird-edge"),
        description="Videos from prompts, made on this machine.",
        docs_url=None,  # they come from other hosts
        redoc_url=None,
        responses=refusals("4XX", 507),  # FastAPI would add its own 422
        lifespan=lifespan,
    )
    app.state.events, app.state.metrics = events, metrics
    add_handlers(app)
    app.include_router(videos.routes)
    app.include_router(machine.routes)
    app.router.routes.append(Route("/mcp", mcp))
    app.mount("/static", _Page(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=_NOT_KEPT)

    return metrics.watch(app)
