"""What routes share: the refusals that they document, and how errors become answers."""

import re
import sqlite3
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import ErrorBody
from hummingbird_edge.serve.service import Service

__all__ = ["EventsOf", "ServiceOf", "add_handlers", "invalid", "refusals"]

_CODES = {404: "not_found", 405: "method_not_allowed"}
_FORMS = {
    "size": "write WIDTHxHEIGHT, such as 64x64",
    "seconds": 'write a number as text, such as "2"',
}


async def _events(request: Request) -> Events:
    found: Events = request.app.state.events
    return found


async def _service(request: Request) -> Service:
    return (await _events(request)).service


EventsOf = Annotated[Events, Depends(_events)]
ServiceOf = Annotated[Service, Depends(_service)]
"""What routes work with: the application's own."""


def refusals(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI documents these refusals."""
    return {status: {"model": ErrorBody} for status in statuses}


def invalid(error: RequestValidationError | ValidationError) -> Problem:
    """Return the refusal of what validation found wrong first."""
    first = error.errors()[0]
    words = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(words)[:80] or None
    if param is None or first["type"] == "json_invalid":
        param = None
        message = "the body is no JSON object: send one, as content-type: application/json"
    elif param == "input_reference":
        message = "input_reference is refused: these models make videos of text alone"
    elif first["type"] == "extra_forbidden":
        message = f"there is no parameter {param}: leave it out"
    elif first["type"] == "missing":
        message = f"{param} is missing: it is required"
    else:
        found, rule = repr(first["input"]), re.sub(r"^\w+ should", "it should", first["msg"])
        found = found if len(found) <= 80 else f"{found[:77]}..."
        message = f"{param} is {found}: {_FORMS.get(param, rule)}"
    return Problem(400, "invalid_value", message, param)


def add_handlers(app: FastAPI) -> None:
    """Turn exceptions into answers in the shape of OpenAI's errors."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        return problem.answer()

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def on_invalid(
        request: Request, error: RequestValidationError | ValidationError
    ) -> Response:
        return invalid(error).answer()

    @app.exception_handler(HTTPException)
    async def on_refusal(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "invalid_request")
        headers = dict(error.headers or {})
        return Problem(error.status_code, code, str(error.detail), headers=headers).answer()

    @app.exception_handler(sqlite3.OperationalError)
    async def on_full_disk(request: Request, error: sqlite3.OperationalError) -> Response:
        text = f"the jobs cannot be kept ({error}): free space"
        return Problem(507, "storage_full", text).answer()
