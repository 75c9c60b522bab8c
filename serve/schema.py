"""What requests and answers look like: the OpenAPI document is made of this."""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from hummingbird_edge.runtime.request import MAX_PROMPT, MAX_SEED, SECONDS, SIZE
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.models import MAX_FPS, MAX_GUIDANCE

__all__ = [
    "CreateBody",
    "DeletedVideo",
    "ErrorBody",
    "Listing",
    "MoveBody",
    "PinBody",
    "RemixBody",
    "VideoList",
]

_MAX_SIDE, _MAX_FRAMES, _MAX_STEPS = 16_384, 10_000, 1000
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT)]
Number = Annotated[int, Field(ge=1)]
Entry = TypeVar("Entry")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class CreateBody(_Body):
    """A video that is wanted; what is left out is the model's default."""

    prompt: Prompt
    model: Annotated[str | None, Field(max_length=200)] = None
    seconds: Annotated[str | None, Field(pattern=SECONDS)] = None
    """Duration, by which the frames are counted."""
    size: Annotated[str | None, Field(pattern=SIZE)] = None
    """WIDTHxHEIGHT in pixels."""
    width: Annotated[Number | None, Field(le=_MAX_SIDE)] = None
    height: Annotated[Number | None, Field(le=_MAX_SIDE)] = None
    num_frames: Annotated[Number | None, Field(le=_MAX_FRAMES)] = None
    fps: Annotated[Number | None, Field(le=MAX_FPS)] = None
    num_inference_steps: Annotated[Number | None, Field(le=_MAX_STEPS)] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)] = (
        None
    )
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED)] = None
    """The same seed makes the same video; drawn where it is left out."""
    decoder: Literal["full", "tiny"] = "full"
    """`tiny` where the model has a small one."""
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


class ErrorEntry(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every refusal."""

    error: ErrorEntry


class Listing(BaseModel, Generic[Entry]):
    """A list in the shape of OpenAI's."""

    object: Literal["list"] = "list"
    data: list[Entry]


class VideoList(Listing[Job]):
    """A page of videos."""

    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """That a video is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True
