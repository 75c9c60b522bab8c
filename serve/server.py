"""The process: bind, serve until told to stop, then leave everything in order."""

import asyncio
import socket
import sys
from dataclasses import dataclass

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.serve.app import make_app
from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.security import Guard, is_loopback
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.supervisor import at_work

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

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise RequestError(
                f"--host {self.host} lets other machines in: give --token too, a long secret such "
                f"as openssl rand -hex 16 makes"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isalnum()):
            raise RequestError(
                "--token has other characters than letters and digits: choose another"
            )

    @property
    def url(self) -> str:
        """What a browser opens."""
        return self.plain_url + (f"?token={self.token}" if self.token else "")

    @property
    def plain_url(self) -> str:
        """The same without the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def listen(self) -> socket.socket:
        """Take the port; raises RequestError where it is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            raise RequestError(
                f"{self.host}:{self.port} cannot be listened on ({error.strerror or error}): "
                f"choose another --port, or stop what uses it"
            ) from error


class _Protocol(H11Protocol):
    """HTTP that does not wait for a request's head for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request()

    def _expect_request(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(_HEADER_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def serve_http(service: Service, address: Address, listener: socket.socket, verbose: bool) -> None:
    """Serve until a signal comes."""
    config = uvicorn.Config(
        Guard(make_app(service), address.host, address.token),
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
    server = uvicorn.Server(config)
    service.is_stopping = lambda: server.should_exit
    server.run(sockets=[listener])


def serve_stdio(service: Service) -> None:
    """Speak the Model Context Protocol on stdin and stdout until the client closes them."""
    asyncio.run(_serve_stdio(service))


async def _serve_stdio(service: Service) -> None:
    from hummingbird_edge.serve.mcp import make_mcp

    events = Events(service)
    async with at_work(events):
        await make_mcp(events, is_stdio=True).run_stdio_async()
    sys.stdout.flush()
