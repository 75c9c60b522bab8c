"""What a request gets instead of an answer: a status, a code and one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse

__all__ = ["Problem"]

_CLOSE = {"connection": "close"}  # what is left of the body is no request
_HEADERS = {
    401: {**_CLOSE, "www-authenticate": "Bearer"},
    **dict.fromkeys((403, 408, 413, 421), _CLOSE),
    429: {"retry-after": "5"},
}


@dataclass(eq=False)
class Problem(Exception):
    """A refusal."""

    status: int
    """HTTP status, 400 to 599."""
    code: str
    """A word for programs, such as `queue_full`."""
    message: str
    """A sentence for people: what was wrong, what was found, what to do."""
    param: str | None = None
    """Which parameter."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """That are sent beside those of the status."""

    def __str__(self) -> str:
        return self.message

    def answer(self) -> JSONResponse:
        """Return what is sent, in the shape of OpenAI's errors."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        entry = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        headers = {**_HEADERS.get(self.status, {}), **self.headers}
        return JSONResponse({"error": entry}, self.status, headers)
