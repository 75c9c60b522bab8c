"""The application: routes, page, protocol, and what runs beside them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from hummingbird_edge.serve.answers import add_handlers, refusals
from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.machine import machine_routes
from hummingbird_edge.serve.mcp_route import McpRoute
from hummingbird_edge.serve.metrics import Metrics
from hummingbird_edge.serve.security import Guard
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.supervisor import Supervisor
from hummingbird_edge.serve.videos import add_all_events, video_routes

__all__ = ["make_app"]

PAGE = Path(__file__).parent / "page"


class _Page(StaticFiles):
    """The page's files; a browser asks each time whether they are new."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return ("", None) if "\0" in path else super().lookup_path(path)

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["cache-control"] = "no-cache"
        return answer


def make_app(
    service: Service,
    supervisor: Supervisor,
    events: Events,
    version: str,
    host: str,
    token: str | None,
) -> ASGIApp:
    """Return the whole server as an ASGI application."""
    metrics, mcp = Metrics(service), McpRoute(service, events)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(supervisor.run()), asyncio.create_task(events.run())]
        yield
        await mcp.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        supervisor.stop()

    app = FastAPI(
        title="Hummingbird Edge",
        version=version,
        description="Videos from prompts, made on this machine.",
        docs_url=None,  # they come from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    add_handlers(app)
    app.include_router(video_routes(service, events))
    app.include_router(machine_routes(service, supervisor.max_memory))
    app.include_router(_other_routes(events, metrics))
    app.router.routes.append(Route("/mcp", mcp))
    if PAGE.is_dir():
        app.mount("/static", _Page(directory=PAGE))
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return Guard(metrics.watch(app), host, token)


def _other_routes(events: Events, metrics: Metrics) -> APIRouter:
    routes = APIRouter()
    add_all_events(routes, events)

    @routes.get("/healthz", responses=refusals(), tags=["machine"])
    async def health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={**refusals(), 200: {"content": {"text/plain": {}}, "description": "Metrics."}},
        tags=["machine"],
    )
    async def show_metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    return routes


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document; validation is answered by 400, not FastAPI's 422."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for path in document["paths"].values():
            for operation in path.values():
                found = operation["responses"].get("422", {}).get("content", {})
                if "HTTPValidationError" in str(found):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema
