"""A job: a video that is wanted, being made, or made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json

from hummingbird_edge.runtime.request import NAMES

__all__ = ["FINISHED", "OPEN", "Job", "Settings"]

OPEN = ("queued", "in_progress")
FINISHED = ("completed", "failed", "cancelled")
"""Statuses after which nothing is done any more."""


class Settings(BaseModel):
    """How a video is made, or is made by default."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float

    @classmethod
    def of(cls, found: object) -> "Settings":
        """Convert what the runtime has."""
        return Settings(**{new: getattr(found, old) for old, new in NAMES.items()})

    def runtime(self) -> dict[str, Any]:
        """Return them by the runtime's names."""
        return {old: getattr(self, new) for old, new in NAMES.items()}


class VideoError(BaseModel):
    """Why a video was not made."""

    code: str
    message: str


class ShortPromise(BaseModel):
    """What was expected of a video when it was planned."""

    seconds: float
    text: str


class Job(Settings):
    """A video in the shape of OpenAI's, and how it is made: a row of the view `jobs`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    """Seconds since 1970."""
    completed_at: int | None
    expires_at: int | None = None
    seconds: str
    size: str
    """WIDTHxHEIGHT of the file: an enhanced video has other sides than were generated."""
    prompt: str
    remixed_from_video_id: str | None
    error: Json[VideoError] | None
    seed: int
    decoder: str
    """`full`, or `tiny` where the model has a small one."""
    device: str
    """As requested: `auto`, or what one of the workers is for."""
    backends: Json[dict[str, str]]
    """Stage to what ran it."""
    stage: str | None
    step: int | None
    """Parts of the stage that are done, of `steps`."""
    steps: int | None
    queue_position: int | None
    """0 is next."""
    preview_step: int | None
    """The last step with a picture."""
    promise: Json[ShortPromise] | None
    timings: Json[dict[str, float]] | None
    """Stage to seconds."""
    notes: Json[list[str]]
    """What the runtime had to say."""
    pinned: bool
    bytes: int
    """Of its files."""
    command: str
    """The `hb-run` line that makes it again."""
    enhancement: Annotated[Json[dict[str, Any]] | None, Field(exclude=True)]
    """What is done to the finished pixels, as `hb-run` keeps it."""
    owner: Annotated[str | None, Field(exclude=True)]
    """The name of the worker that makes it."""
    deaths: Annotated[int, Field(exclude=True)]
    """Workers that died of it since its last step."""
