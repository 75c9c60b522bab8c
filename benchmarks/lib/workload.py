"""The video that benchmarks make: one prompt, one seed, a shape that the command line chooses."""

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.request import Request, parse_size

__all__ = ["PROMPT", "SEED", "request_for", "shape_text"]

PROMPT, SEED = "a penguin waddling in the snow", 7


def request_for(
    bundle: Bundle,
    decoder: str = "full",
    size: str | None = None,
    frames: int | None = None,
    steps: int | None = None,
) -> Request:
    """Return the request for a video; what is None is the bundle's default.

    Raises RequestError for a shape that the model does not take.
    """
    width, height = parse_size(size)
    shape = {"frames": frames, "width": width, "height": height, "steps": steps}
    return Request.for_model(bundle.manifest, PROMPT, SEED, decoder, **shape)


def shape_text(request: Request) -> str:
    """Return the shape of a video in words."""
    return f"{request.frames} frames of {request.width}x{request.height}"
