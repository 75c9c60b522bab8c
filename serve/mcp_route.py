"""`/mcp`, made when somebody first asks for it: its package takes a second to import."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.service import Service

__all__ = ["McpRoute"]


@dataclass(slots=True)
class McpRoute:
    """Answers the Model Context Protocol over HTTP; hosts and origins are checked before it."""

    service: Service
    events: Events
    _app: "asyncio.Future[ASGIApp] | None" = None
    _task: "asyncio.Task[None] | None" = None
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self._app is None:
            self._app = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._app))
        app = await asyncio.shield(self._app)
        await app(scope, receive, send)

    async def stop(self) -> None:
        """End all sessions."""
        self._stopped.set()
        if self._task is not None:
            await self._task

    async def _run(self, ready: "asyncio.Future[Any]") -> None:
        """Keep the sessions: one task has to begin and to end them."""
        from mcp.server.transport_security import TransportSecuritySettings

        from hummingbird_edge.serve.mcp import make_mcp

        server = make_mcp(self.service, self.events)
        checked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        app = server.streamable_http_app(transport_security=checked)
        async with server.session_manager.run():
            ready.set_result(app)
            await self._stopped.wait()
