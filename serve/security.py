"""Who may ask what: host, origin, token, and how large and slow a request may be.

A page of another site can make a browser send requests to this machine: by a name that it points
here (DNS rebinding), or straight across sites. Neither passes. Sources: Fetch Standard, "Origin"
header; Fetch Metadata Request Headers (Sec-Fetch-Site); RFC 6265bis (SameSite).
"""

import asyncio
import hmac
import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hummingbird_edge.serve.problem import Problem

__all__ = ["MAX_BODY", "Guard", "is_loopback"]

MAX_BODY = 1 << 20
"""Bytes of a request's body; a prompt has at most 2,000 letters."""
_BODY_S = 10.0
"""In which a body must arrive."""
_MAX_DRAINED, _DRAIN_S = 8 << 20, 2.0
"""Bytes and seconds that the rest of a refused request may take."""
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
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
        headers = Headers(scope=scope)
        sent = _with_headers(send)
        try:
            self._check_host(headers)
            _check_origin(headers, scope)
            if (answer := self._check_token(headers, scope)) is not None:
                await answer(scope, receive, sent)
                return
            _check_length(headers)
        except Problem as problem:
            await _drain(receive)
            await _refusal(problem)(scope, receive, sent)
            return
        await _bounded(self.app, scope, receive, sent)

    def _check_host(self, headers: Headers) -> None:
        """Refuse a name that this server does not have: whoever chose it may be elsewhere."""
        host = _name(headers.get("host", ""))
        if not (host is not None and (is_loopback(host) or self._is_own(host))):
            message = "the Host header names no host of this server: use its address"
            raise Problem(421, "wrong_host", message)

    def _is_own(self, host: str) -> bool:
        if is_loopback(self.host):
            return False
        name = socket.gethostname().lower()
        if host in (self.host.lower(), name, f"{name}.local"):
            return True
        try:  # an address cannot be pointed elsewhere
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True

    def _check_token(self, headers: Headers, scope: Scope) -> Response | None:
        """Refuse a request without the token; `/?token=` is answered by a cookie."""
        if self.token is None or scope["path"] == "/healthz":
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and self._is_token(query.get("token", [""])[0]):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(_COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and self._is_token(cookie.value):
            return None
        message = "this server wants its token: send Authorization: Bearer, or open /?token=..."
        raise Problem(401, "invalid_token", message)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


def _name(host: str) -> str | None:
    """Return the host of a Host header without its port, in lower case; None for no host."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _check_origin(headers: Headers, scope: Scope) -> None:
    """Refuse what a page of another site sends."""
    origin = headers.get("origin")
    if origin is not None and origin not in (
        f"http://{headers.get('host')}",
        f"https://{headers.get('host')}",
    ):
        raise Problem(403, "wrong_origin", "another site's page may not use this server")
    site = headers.get("sec-fetch-site", "none")
    is_visit = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
    if site not in ("none", "same-origin") and not (is_visit and scope["method"] == "GET"):
        raise Problem(403, "wrong_origin", "another site's page may not use this server")


def _check_length(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY:
        raise _too_large()


def _too_large() -> Problem:
    return Problem(413, "too_large", f"the body has more than {MAX_BODY} bytes: send less")


async def _bounded(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`, but refuse a body that is too large or does not come."""
    left, deadline, has_begun = MAX_BODY, asyncio.get_running_loop().time() + _BODY_S, False
    is_whole = False

    async def bounded() -> Message:
        nonlocal left, is_whole
        if is_whole:  # now it is about the connection
            return await receive()
        seconds = deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, seconds))
        except (TimeoutError, asyncio.TimeoutError):
            text = f"the body did not arrive within {_BODY_S:.0f} s: send it again"
            raise Problem(408, "too_slow", text) from None
        left -= len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if left < 0:
            await _drain(receive)
            raise _too_large()
        return message

    async def watched(message: Message) -> None:
        nonlocal has_begun
        has_begun = True
        await send(message)

    try:
        await app(scope, bounded, watched)
    except Problem as problem:
        if has_begun:
            raise
        await _refusal(problem)(scope, receive, send)


async def _drain(receive: Receive) -> None:
    """Take what a client is sending, within reason: else it would not read the answer."""

    async def take() -> None:
        left, has_more = _MAX_DRAINED, True
        while has_more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            has_more = message.get("more_body", False)

    with suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(take(), _DRAIN_S)


def _refusal(problem: Problem) -> JSONResponse:
    answer = JSONResponse(problem.body(), problem.status)
    answer.headers["connection"] = "close"
    if problem.status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


def _with_headers(send: Send) -> Send:
    """Add what every answer says to the browser."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sent
