"""`/mcp`, made when somebody first asks for it: its package takes a second to import."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from hummingbird_edge.serve.events import Events

__all__ = ["McpRoute"]


@dataclass(slots=True)
class McpRoute:
    """Answers the Model Context Protocol over HTTP; hosts and origins are checked before it."""

    events: Events
    _app: ASGIApp | None = None
    _sessions: "asyncio.Task[None] | None" = None
    _is_ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self._sessions is None:
            self._sessions = asyncio.create_task(self._run())
        await self._is_ready.wait()
        assert self._app is not None
        await self._app(scope, receive, send)

    async def stop(self) -> None:
        """End all sessions."""
        if self._sessions is not None:
            self._sessions.cancel()
            with suppress(asyncio.CancelledError):
                await self._sessions

    async def _run(self) -> None:
        """Keep the sessions: one task has to begin and to end them."""
        from mcp.server.transport_security import TransportSecuritySettings

        from hummingbird_edge.serve.mcp import make_mcp

        server = make_mcp(self.events)
        checked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._app = server.streamable_http_app(transport_security=checked)
        async with server.session_manager.run():
            self._is_ready.set()
            await asyncio.Event().wait()
