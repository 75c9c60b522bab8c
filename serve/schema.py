"""What requests and answers look like: the OpenAPI document is made of this."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from hummingbird_edge.serve.jobs import Job
from hummingbird_edge.serve.models import MAX_FPS, MAX_GUIDANCE, MAX_SEED, Model

__all__ = [
    "CreateBody",
    "DeletedVideo",
    "DeviceList",
    "ErrorBody",
    "ModelList",
    "MoveBody",
    "PinBody",
    "PromiseObject",
    "RemixBody",
    "UnfinishedList",
    "VideoList",
    "VideoObject",
    "model_object",
    "video_object",
]

MAX_PROMPT = 2000
_MAX_SIDE, _MAX_FRAMES, _MAX_STEPS = 16_384, 10_000, 1000
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CreateBody(_Body):
    """A video that is wanted; what is left out is the model's default."""

    prompt: Prompt
    model: Annotated[str | None, Field(max_length=200)] = None
    seconds: Annotated[str | None, Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,3})?$")] = None
    """Duration, by which the frames are counted."""
    size: Annotated[str | None, Field(pattern=r"^[0-9]{1,5}x[0-9]{1,5}$")] = None
    """WIDTHxHEIGHT in pixels."""
    width: Annotated[int | None, Field(ge=1, le=_MAX_SIDE)] = None
    height: Annotated[int | None, Field(ge=1, le=_MAX_SIDE)] = None
    num_frames: Annotated[int | None, Field(ge=1, le=_MAX_FRAMES)] = None
    fps: Annotated[int | None, Field(ge=1, le=MAX_FPS)] = None
    num_inference_steps: Annotated[int | None, Field(ge=1, le=_MAX_STEPS)] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)] = (
        None
    )
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED)] = None
    """The same seed makes the same video; drawn where it is left out."""
    device: Annotated[str | None, Field(max_length=200)] = None
    """`auto`, or what one of the server's workers is for."""


class RemixBody(_Body):
    """The same settings and seed with another prompt."""

    prompt: Prompt


class MoveBody(_Body):
    """A place in the queue; 0 is next."""

    position: Annotated[int, Field(ge=0, le=100_000)]


class PinBody(_Body):
    """Whether a video stays when room is made."""

    pinned: bool


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class ErrorEntry(_Answer):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Answer):
    """Every refusal."""

    error: ErrorEntry


class VideoError(_Answer):
    """Why a video was not made."""

    code: str
    message: str


class ShortPromise(_Answer):
    """What was expected of a video when it was planned."""

    seconds: float
    text: str


class _Settings(_Answer):
    """How a video is made, or is made by default."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float


class VideoObject(_Settings):
    """A video, in the shape of OpenAI's, and how it is made."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    completed_at: int | None
    expires_at: int | None = None
    seconds: str
    size: str
    prompt: str
    remixed_from_video_id: str | None
    error: VideoError | None
    seed: int
    device: str
    backends: dict[str, str]
    stage: str | None
    step: int | None
    steps: int | None
    queue_position: int | None
    promise: ShortPromise | None
    timings: dict[str, float] | None
    notes: list[str]
    pinned: bool
    bytes: int
    command: str


class VideoList(_Answer):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(_Answer):
    """That a video is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class RangeObject(_Answer):
    """What a setting may be."""

    min: int
    max: int
    multiple: int


class ModelObject(_Settings):
    """A model with its defaults and limits."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    default: bool
    limits: dict[str, RangeObject]
    card: str | None
    ignores: list[str]


class ModelList(_Answer):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class StagePromise(_Answer):
    """What is expected of a stage."""

    stage: str
    device: str
    precision: str
    seconds: float


class PromiseObject(_Answer):
    """What a video will take."""

    seconds: float
    memory_bytes: int
    text: str
    stages: list[StagePromise]


class DeviceObject(_Answer):
    """A device that there could be."""

    name: str
    description: str
    available: bool
    reason: str


class DeviceList(_Answer):
    """The devices, and what earlier videos and `--tune` measured on them."""

    devices: list[DeviceObject]
    workers: list[str]
    measured: list[dict[str, Any]]


class UnfinishedObject(_Answer):
    """A video that was interrupted."""

    id: str
    prompt: str
    step: int
    steps: int
    created_at: int


class UnfinishedList(_Answer):
    """What can be resumed."""

    data: list[UnfinishedObject]


def video_object(job: Job, queue_position: int | None) -> VideoObject:
    """Return how the API shows a job."""
    error = None
    if job.error_code is not None:
        error = VideoError(code=job.error_code, message=job.error_message or "")
    own = {name: getattr(job, name) for name in _SAME}
    return VideoObject(
        **own,
        created_at=int(job.created_at),
        completed_at=None if job.completed_at is None else int(job.completed_at),
        seconds=f"{job.num_frames / job.fps:g}",
        size=f"{job.width}x{job.height}",
        remixed_from_video_id=job.remixed_from,
        error=error,
        device=_device(job),
        queue_position=queue_position,
    )


_SAME = {field.name for field in fields(Job)} & VideoObject.model_fields.keys() - {
    *("created_at", "completed_at", "device"),
}
"""What a video object says as the job does."""


def _device(job: Job) -> str:
    """Return what ran a video, or what it is to run on."""
    return ", ".join(dict.fromkeys(job.backends.values())) or job.device


def model_object(model: Model) -> ModelObject:
    """Return how the API shows a model."""
    limits = {name: RangeObject(**each.as_dict()) for name, each in model.limits.items()}
    return ModelObject(
        id=model.name,
        created=model.created,
        owned_by="local",
        default=model.is_default,
        limits=limits,
        card=model.card,
        ignores=[],
        **model.defaults,
    )
