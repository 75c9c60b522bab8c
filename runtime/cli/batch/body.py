"""What a job asks for: a body of the videos API (`serve/schema.py`), without `device`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from hummingbird_edge.runtime.bundle.manifest import Manifest
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.request import (
    MAX_PROMPT,
    MAX_SEED,
    SECONDS,
    SIZE,
    Request,
    settings_of_body,
)

__all__ = ["Body", "request_of"]


class Body(Struct, frozen=True, forbid_unknown_fields=True):
    """One video; what is left out is the command's option, or else the model's default."""

    prompt: Annotated[str, Meta(max_length=MAX_PROMPT)]
    model: str | None = None
    """The name of the bundle, where it is said."""
    seconds: Annotated[str, Meta(pattern=SECONDS)] | None = None
    size: Annotated[str, Meta(pattern=SIZE)] | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None
    decoder: Literal["full", "tiny"] | None = None


def request_of(body: Mapping[str, Any], options: Mapping[str, Any], manifest: Manifest) -> Request:
    """Return what a body asks for; `options` are the command's. Raises RequestError."""
    try:
        asked = msgspec.convert(body, Body)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body is not one of the videos API: {error}") from error
    if asked.model not in (None, manifest.name):
        raise RequestError(f"the model is {asked.model!r}, and this batch has {manifest.name}")
    own = msgspec.structs.asdict(asked)
    given = settings_of_body(own, options["fps"] or manifest.defaults.fps)
    given |= {name: own[name] for name in ("seed", "decoder") if own[name] is not None}
    return Request.for_model(manifest, asked.prompt, **{**options, **given})
