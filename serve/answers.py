"""What routes share: the refusals that they document, and how errors become answers."""

import sqlite3
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import ErrorBody

__all__ = ["add_handlers", "invalid", "refusals"]

_MEANINGS = {
    400: "The request makes no sense.",
    401: "The token is missing or wrong.",
    403: "The request comes from another site.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "The video is in another state.",
    413: "The body is too large.",
    416: "The range lies outside the file.",
    421: "The Host header names another host.",
    422: "The video could not be made.",
    429: "The queue is full.",
    503: "Too many listen.",
    507: "The disk is full.",
}
_ALWAYS = (400, 401, 403, 408, 413, 421, 507)
_CODES = {404: "not_found", 405: "method_not_allowed"}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI documents these refusals, and those that any request may meet."""
    known = sorted({*_ALWAYS, *statuses})
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in known}


def invalid(errors: Any) -> Problem:
    """Return the refusal of what validation found wrong first."""
    first = errors[0]
    words = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(words)[:80] or None
    if param == "input_reference":
        message = "input_reference is refused: these models make videos of text alone"
    elif first["type"] == "extra_forbidden":
        message = f"there is no parameter {param}: leave it out"
    else:
        message = f"{param or 'the body'}: {first['msg']}"
    return Problem(400, "invalid_value", message, param)


def add_handlers(app: FastAPI) -> None:
    """Turn exceptions into answers in the shape of OpenAI's errors."""

    @app.exception_handler(Problem)
    def on_problem(request: Request, problem: Problem) -> JSONResponse:
        return _answer(problem)

    @app.exception_handler(RequestValidationError)
    def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(invalid(error.errors()))

    @app.exception_handler(ValidationError)
    def on_invalid_body(request: Request, error: ValidationError) -> JSONResponse:
        return _answer(invalid(error.errors(include_url=False, include_context=False)))

    @app.exception_handler(HTTPException)
    def on_refusal(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "invalid_request")
        answer = _answer(Problem(error.status_code, code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(sqlite3.OperationalError)
    def on_full_disk(request: Request, error: sqlite3.OperationalError) -> JSONResponse:
        return _answer(
            Problem(507, "storage_full", f"the jobs cannot be kept ({error}): free space")
        )


def _answer(problem: Problem) -> JSONResponse:
    answer = JSONResponse(problem.body(), problem.status)
    if problem.status == 429:
        answer.headers["retry-after"] = "5"
    if problem.status in (408, 413):  # what is left of the body is no request
        answer.headers["connection"] = "close"
    return answer
