"""The routes of videos, in the shape of OpenAI's `/v1/videos`."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, StreamingResponse

from hummingbird_edge.serve.answers import refusals
from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.jobs import Job
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import (
    CreateBody,
    DeletedVideo,
    MoveBody,
    PinBody,
    RemixBody,
    VideoList,
    VideoObject,
)
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.store import CONTENT

__all__ = ["CREATE_BODY", "read_body", "video_routes"]

_FORM = ("multipart/form-data", "application/x-www-form-urlencoded")
_MAX_FIELDS = 30
CREATE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": CreateBody.model_json_schema()}
            for kind in ("application/json", "multipart/form-data")
        },
    }
}
"""How OpenAPI documents a body that is JSON, or a form as OpenAI's client sends it."""
_FILES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {kind: {} for kind in sorted({kind for _, kind in CONTENT.values()})},
    }
    for status, description in ((200, "The file."), (206, "The part that was asked for."))
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `video` (a video object), `preview` (id, step, frames, image), "
        "`deleted` (id).",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


async def read_body(request: Request) -> CreateBody:
    """Return the wanted video of a JSON body or a form; raises Problem or ValidationError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _FORM:
        if kind not in ("", "application/json"):
            raise Problem(400, "invalid_value", f"the body is {kind[:80]!r}: send application/json")
        return CreateBody.model_validate_json(await request.body())
    async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
        entries = {name: value for name, value in form.items() if value != ""}
    # A form has nothing but text.
    return CreateBody.model_validate(entries, strict=False)


def video_routes(service: Service, events: Events) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/videos", tags=["videos"])
    _add_making(routes, service, events)
    _add_reading(routes, service)
    _add_events(routes, events)
    _add_changing(routes, service)
    return routes


def _add_making(routes: APIRouter, service: Service, events: Events) -> None:
    @routes.post("", responses=refusals(429), openapi_extra=CREATE_BODY)
    async def create_video(request: Request) -> VideoObject:
        """Queue a video."""
        return service.shown(service.create(await read_body(request)))

    @routes.post(
        "/sync",
        response_class=FileResponse,
        responses={**refusals(404, 409, 422, 429), 200: _mp4()},
        openapi_extra=CREATE_BODY,
    )
    async def create_video_sync(request: Request) -> FileResponse:
        """Make a video and answer with it; who goes away cancels it."""
        job = service.create(await read_body(request))
        while job.status in ("queued", "in_progress"):
            await events.wait()
            if await request.is_disconnected():
                service.jobs.cancel(job.id)
            job = service.find(job.id)
        if job.status == "failed":
            code, message = job.error_code or "failed", job.error_message or "it failed"
            raise Problem(422, code, message)
        return _file(service, job, "video", "mp4")

    @routes.post("/{video_id}/remix", responses=refusals(404, 429))
    async def remix_video(video_id: str, body: RemixBody) -> VideoObject:
        """Queue a video with the settings and seed of another."""
        return service.shown(service.remix(video_id, body.prompt))


def _add_reading(routes: APIRouter, service: Service) -> None:
    @routes.get("", responses=refusals(404))
    async def list_videos(
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """Return a page of videos, by when they were requested."""
        start = None if after is None else service.find(after)
        found = service.jobs.page(start, limit + 1, order == "desc")
        data = [service.shown(job) for job in found[:limit]]
        return VideoList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(found) > limit,
        )

    @routes.get("/{video_id}", responses=refusals(404))
    async def retrieve_video(video_id: str) -> VideoObject:
        """Return a video."""
        return service.shown(service.find(video_id))

    @routes.get(
        "/{video_id}/content",
        response_class=FileResponse,
        responses={**refusals(404, 409, 416), **_FILES},
    )
    async def retrieve_content(
        video_id: str,
        variant: Literal["video", "thumbnail", "spritesheet"] = "video",
        format: Literal["mp4", "gif", "webp"] = "mp4",
    ) -> FileResponse:
        """Return a file of a finished video; `format` is for the variant `video`."""
        return _file(service, service.find(video_id), variant, format)


def _add_events(routes: APIRouter, events: Events) -> None:
    @routes.get(
        "/{video_id}/events",
        response_class=StreamingResponse,
        responses={**refusals(404, 503), **_EVENTS},
    )
    async def follow_video(video_id: str) -> StreamingResponse:
        """Stream what happens to a video."""
        return event_stream(events.listen(video_id))


def add_all_events(routes: APIRouter, events: Events) -> None:
    """Add the stream of all videos."""

    @routes.get(
        "/v1/events",
        response_class=StreamingResponse,
        responses={**refusals(503), **_EVENTS},
        tags=["videos"],
    )
    async def follow_all() -> StreamingResponse:
        """Stream what happens to all videos."""
        return event_stream(events.listen(None))


def event_stream(stream: AsyncIterator[str]) -> StreamingResponse:
    """Return an answer that goes on."""
    return StreamingResponse(stream, media_type="text/event-stream")


def _add_changing(routes: APIRouter, service: Service) -> None:
    @routes.delete("/{video_id}", responses=refusals(404))
    async def delete_video(video_id: str) -> DeletedVideo:
        """Delete a video; one that is being made stops within a step."""
        service.delete(video_id)
        return DeletedVideo(id=video_id)

    @routes.post("/{video_id}/cancel", responses=refusals(404, 409))
    async def cancel_video(video_id: str) -> VideoObject:
        """Stop a video within a step, and keep its entry."""
        return service.shown(service.cancel(video_id))

    @routes.post("/{video_id}/move", responses=refusals(404, 409))
    async def move_video(video_id: str, body: MoveBody) -> VideoObject:
        """Put a queued video elsewhere in the queue."""
        return service.shown(service.move(video_id, body.position))

    @routes.post("/{video_id}/pin", responses=refusals(404))
    async def pin_video(video_id: str, body: PinBody) -> VideoObject:
        """Keep a video when room is made, or no longer."""
        return service.shown(service.pin(video_id, body.pinned))


def _mp4() -> dict[str, Any]:
    return {"description": "The video.", "content": {"video/mp4": {}}}


def _file(service: Service, job: Job, variant: str, kind: str) -> FileResponse:
    """Return a file of a job; raises Problem where it is not there yet, or no longer."""
    if job.status != "completed":
        raise Problem(409, "not_completed", f"the video is {job.status}: it has no content")
    name, media_type = CONTENT[variant, kind if variant == "video" else "mp4"]
    path = service.store.of(job.id) / name
    if not path.is_file():
        raise Problem(404, "not_found", "the video's file is gone: make it again")
    _, _, suffix = name.partition(".")
    # What is in it never changes.
    headers = {"cache-control": "private, max-age=31536000, immutable"}
    return FileResponse(
        path,
        media_type=media_type,
        filename=f"{job.id}.{suffix}",
        content_disposition_type="inline",
        headers=headers,
    )
