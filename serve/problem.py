"""What a request gets instead of an answer: a status, a code and one sentence."""

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(eq=False)
class Problem(Exception):
    """A refusal, in the shape of OpenAI's errors."""

    status: int
    """HTTP status, 400 to 599."""
    code: str
    """A word for programs, such as `queue_full`."""
    message: str
    """A sentence for people: what was wrong, what was found, what to do."""
    param: str | None = None
    """Which parameter."""

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return what is sent."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }
