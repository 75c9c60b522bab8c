"""The routes of videos, in the shape of OpenAI's `/v1/videos`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse
from sse_starlette import EventSourceResponse

from hummingbird_edge.serve.answers import EventsOf, ServiceOf, refusals
from hummingbird_edge.serve.content import Content
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import (
    CreateBody,
    DeletedVideo,
    MoveBody,
    PinBody,
    RemixBody,
    VideoList,
)
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.store import CONTENT

__all__ = ["CREATE_BODY", "read_body", "routes"]

routes = APIRouter(prefix="/v1", tags=["videos"])
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
_MP4: dict[int | str, dict[str, Any]] = {200: {"content": {"video/mp4": {}}}}
_FILE: dict[str, Any] = {"content": {kind: {} for _, kind in CONTENT.values()}}
_FILES: dict[int | str, dict[str, Any]] = {200: _FILE, 206: _FILE}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`video` (a video), `preview` (id, step, frames, image), `deleted` (id).",
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
    if any(name.lstrip().startswith("{") for name in form):  # as curl sends it, if not told
        message = "the body is JSON that is called a form: send content-type: application/json"
        raise Problem(400, "invalid_value", message)
    # A form has nothing but text.
    return CreateBody.model_validate(entries, strict=False)


BodyOf = Annotated[CreateBody, Depends(read_body)]


@routes.post("/videos", responses=refusals(429), openapi_extra=CREATE_BODY)
async def create_video(body: BodyOf, service: ServiceOf) -> Job:
    """Queue a video."""
    return service.create(body)


@routes.post(
    "/videos/sync",
    response_class=FileResponse,
    responses={**refusals(404, 409, 422, 429, 503), **_MP4},
    openapi_extra=CREATE_BODY,
)
async def create_video_sync(request: Request, body: BodyOf, events: EventsOf) -> FileResponse:
    """Make a video and answer with it; who goes away cancels it."""
    service = events.service
    async for job in events.follow(service.create(body).id):
        if await request.is_disconnected() and not service.is_stopping():
            service.jobs.cancel(job.id)
    return _file(service, job, "video", "mp4")


@routes.get("/videos", responses=refusals(404))
async def list_videos(
    service: ServiceOf,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """Return a page of videos, by when they were requested."""
    if after is not None:
        service.find(after)
    found = service.jobs.page(after, limit + 1, order == "desc")
    data = found[:limit]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return VideoList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


@routes.get("/videos/{video_id}", responses=refusals(404))
async def retrieve_video(video_id: str, service: ServiceOf) -> Job:
    """Return a video."""
    return service.find(video_id)


@routes.get(
    "/videos/{video_id}/content",
    response_class=FileResponse,
    responses={**refusals(404, 409, 416), **_FILES},
)
async def retrieve_content(
    video_id: str,
    service: ServiceOf,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
    format: Literal["mp4", "gif", "webp"] = "mp4",
) -> FileResponse:
    """Return a file of a finished video; `format` is for the variant `video`."""
    return _file(service, service.find(video_id), variant, format)


@routes.get(
    "/videos/{video_id}/events",
    response_class=EventSourceResponse,
    responses={**refusals(404, 503), **_EVENTS},
)
async def follow_video(video_id: str, events: EventsOf) -> EventSourceResponse:
    """Stream what happens to a video."""
    return EventSourceResponse(events.listen(video_id))


@routes.get("/events", response_class=EventSourceResponse, responses={**refusals(503), **_EVENTS})
async def follow_all(events: EventsOf) -> EventSourceResponse:
    """Stream what happens to all videos."""
    return EventSourceResponse(events.listen(None))


@routes.post("/videos/{video_id}/remix", responses=refusals(404, 429))
async def remix_video(video_id: str, body: RemixBody, service: ServiceOf) -> Job:
    """Queue a video with the settings and seed of another."""
    return service.remix(video_id, body.prompt)


@routes.delete("/videos/{video_id}", responses=refusals(404))
async def delete_video(video_id: str, service: ServiceOf) -> DeletedVideo:
    """Delete a video; one that is being made stops within a step."""
    service.delete(video_id)
    return DeletedVideo(id=video_id)


@routes.post("/videos/{video_id}/cancel", responses=refusals(404, 409))
async def cancel_video(video_id: str, service: ServiceOf) -> Job:
    """Stop a video within a step, and keep its entry."""
    return service.cancel(video_id)


@routes.post("/videos/{video_id}/move", responses=refusals(404, 409))
async def move_video(video_id: str, body: MoveBody, service: ServiceOf) -> Job:
    """Put a queued video elsewhere in the queue."""
    return service.move(video_id, body.position)


@routes.post("/videos/{video_id}/pin", responses=refusals(404))
async def pin_video(video_id: str, body: PinBody, service: ServiceOf) -> Job:
    """Keep a video when room is made, or no longer."""
    return service.pin(video_id, body.pinned)


def _file(service: Service, job: Job, variant: str, kind: str) -> Content:
    """Return a file of a job; raises Problem where it is not there yet."""
    if job.status != "completed":
        raise Problem(409, "not_completed", f"the video is {job.status}: it has no content")
    name, media_type = CONTENT[variant, kind if variant == "video" else "mp4"]
    path = service.store.of(job.id) / name
    return Content(
        path,
        media_type=media_type,
        filename=f"{job.id}{path.suffix}",
        content_disposition_type="inline",
        # What is in it never changes.
        headers={"cache-control": "private, max-age=31536000, immutable"},
    )
