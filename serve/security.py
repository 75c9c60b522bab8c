"""Who may ask what: host, origin, token, and how large and slow a request may be.

A page of another site can make a browser send requests to this machine: by a name that it points
here (DNS rebinding), or straight across sites. Neither passes. Sources: Fetch Standard, "Origin"
header; Fetch Metadata Request Headers (Sec-Fetch-Site); RFC 6265bis (SameSite).
"""

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hummingbird_edge.serve.problem import Problem

__all__ = ["Guard", "is_loopback"]

_MAX_BODY = 1 << 20
"""Bytes of a request's body; a prompt has at most 2,000 letters."""
_MAX_DRAINED = 8 << 20
"""Bytes that are taken of a larger one."""
_BODY_S = 10.0
"""In which a body must arrive."""
_COOKIE = "hb_token"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Tell whether a host, as it is bound or requested, is this machine's own."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets requests through to `app` that may pass."""

    app: ASGIApp
    host: str
    """What the server is bound to."""
    token: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        answer = self._check_host(request) or _check_origin(request) or self._check_token(request)
        try:
            body = await _body(receive, 0 if answer else _MAX_BODY)
        except Problem as problem:
            body, answer = b"", answer or problem.answer()
        if body is None:
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        is_head = scope["method"] == "HEAD"  # is answered as GET
        got = {**scope, "method": "GET"} if is_head else scope
        await (answer or self.app)(got, replay, _with_headers(send, is_head))

    def _check_host(self, request: HTTPConnection) -> Response | None:
        """Refuse a name that this server does not have: whoever chose it may be elsewhere."""
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        if is_loopback(host) or self._is_own(host):
            return None
        message = "the Host header names no host of this server: use its address"
        return Problem(421, "wrong_host", message).answer()

    def _is_own(self, host: str) -> bool:
        if is_loopback(self.host):
            return False
        name = socket.gethostname().lower()
        # An address cannot be pointed elsewhere.
        return host in (self.host.lower(), name, f"{name}.local") or _address(host) is not None

    def _check_token(self, request: HTTPConnection) -> Response | None:
        """Refuse a request without the token; `/?token=` is answered by a cookie."""
        path = request.scope["path"]
        if self.token is None or path == "/healthz":
            return None
        if path == "/" and self._is_token(request.query_params.get("token")):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(_COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return None
        if self._is_token(request.cookies.get(_COOKIE)):
            return None
        message = "this server wants its token: send Authorization: Bearer, or open /?token=..."
        return Problem(401, "invalid_token", message).answer()

    def _is_token(self, given: str | None) -> bool:
        return hmac.compare_digest((given or "").encode(), (self.token or "").encode())


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _check_origin(request: HTTPConnection) -> Response | None:
    """Refuse what a page of another site sends."""
    headers, host = request.headers, request.headers.get("host")
    is_own = headers.get("origin") in (None, f"http://{host}", f"https://{host}")
    is_near = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    is_visit = headers.get("sec-fetch-mode") == "navigate" and request.scope["method"] == "GET"
    if is_own and (is_near or (is_visit and request.scope["path"] == "/")):
        return None
    message = "another site's page may not use this server"
    return Problem(403, "wrong_origin", message).answer()


async def _body(receive: Receive, most: int) -> bytes | None:
    """Return a request's body, None where its client has gone.

    Raises Problem for one that does not come, or has more than `most` bytes: the rest is taken,
    within reason, since a client that still sends would not read the refusal.
    """
    parts, size, has_more = list[bytes](), 0, True
    try:
        with anyio.fail_after(_BODY_S):
            while has_more and size < _MAX_DRAINED:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part, has_more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size <= most:
                    parts.append(part)
    except TimeoutError:
        text = f"the body did not arrive within {_BODY_S:.0f} s: send it again"
        raise Problem(408, "too_slow", text) from None
    if size > most:
        raise Problem(413, "too_large", f"the body has more than {most} bytes: send less")
    return b"".join(parts)


def _with_headers(send: Send, is_head: bool) -> Send:
    """Add what every answer says to the browser; end it after its head if that was asked for."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("cache-control", "no-store")
            await send(message)
            if is_head:  # without waiting: a stream of events has no end
                await send({"type": "http.response.body"})
        elif not is_head:
            await send(message)

    return sent
