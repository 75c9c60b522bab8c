"""A video's file as an answer, whole or in ranges; source: RFC 9110, "Range Requests"."""

from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from hummingbird_edge.serve.problem import Problem

__all__ = ["Content"]


class Content(FileResponse):
    """Starlette's answer, but for what it refuses: a range, or a file that was deleted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; raises Problem before anything is sent."""
        head: list[Message] = []  # held back until the file is open
        is_sent = False

        async def sent(message: Message) -> None:
            nonlocal is_sent
            if message["type"] != "http.response.start":
                is_sent = True
                while head:
                    await send(head.pop())
                await send(message)
            elif message["status"] < 400:
                head.append(message)
            else:
                text = "the header Range is wrong: ask for bytes=FIRST-LAST within the file"
                found = Headers(raw=message["headers"]).get("content-range")
                headers = {} if found is None else {"content-range": found}
                raise Problem(message["status"], "invalid_range", text, headers=headers)

        try:
            await super().__call__(scope, receive, sent)
        except (FileNotFoundError, RuntimeError) as error:
            if is_sent:
                raise
            raise Problem(404, "not_found", "the video's file is gone: make it again") from error
