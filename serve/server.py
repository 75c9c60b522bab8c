"""The process: bind, serve until told to stop, then leave everything in order."""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hummingbird_edge.serve.app import make_app
from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.supervisor import Supervisor

__all__ = ["Address", "serve_http", "serve_stdio"]

_MAX_CONNECTIONS = 256
_HEADER_S = 10.0
"""In which a request's head must arrive."""
_SHUTDOWN_S = 5


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens, and who may come."""

    host: str
    port: int
    token: str | None

    @property
    def url(self) -> str:
        """What a browser opens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")


class _Protocol(H11Protocol):
    """HTTP that does not wait for a request's head for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(_HEADER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class _Server(uvicorn.Server):
    """Uvicorn that ends streams of events when it is told to stop."""

    def __init__(self, config: uvicorn.Config, events: Events) -> None:
        super().__init__(config)
        self._events = events

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._events.close()
        super().handle_exit(sig, frame)


def serve_http(
    service: Service, supervisor: Supervisor, address: Address, version: str, verbose: bool
) -> None:
    """Serve until a signal comes."""
    events = Events(service)
    app = make_app(service, supervisor, events, version, address.host, address.token)
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_level="info" if verbose else "error",
        access_log=False,  # a query may hold the token
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    _Server(config, events).run()


def serve_stdio(service: Service, supervisor: Supervisor) -> None:
    """Speak the Model Context Protocol on stdin and stdout until the client closes them."""
    asyncio.run(_serve_stdio(service, supervisor))


async def _serve_stdio(service: Service, supervisor: Supervisor) -> None:
    from hummingbird_edge.serve.mcp import make_mcp

    events = Events(service)
    tasks = [asyncio.create_task(supervisor.run()), asyncio.create_task(events.run())]
    try:
        await make_mcp(service, events, names_files=True).run_stdio_async()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        supervisor.stop()
        sys.stdout.flush()
