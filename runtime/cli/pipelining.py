"""Several videos on two devices: one decodes a video while the other denoises the next."""

from typing import TYPE_CHECKING

from hummingbird_edge.runtime.engines.worker import needs_worker
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo

if TYPE_CHECKING:
    from hummingbird_edge.runtime.request import Request

__all__ = ["decoding_elsewhere"]


def decoding_elsewhere(pipeline: TextToVideo, request: "Request") -> TextToVideo | None:
    """Return what decodes videos while `pipeline` denoises the next ones; None for `pipeline`.

    It is another where U-Net and decoder run on two devices, one of which leaves the CPU to others,
    and where memory allows both at once. From then on each plans for its own part of that.
    """
    planner, decoder = pipeline.stages.planner, request.decoding_stage
    try:
        plan = planner.plan(request.stage_sizes(pipeline.manifest))
    except RequestError:  # the video itself says so, or waits until there is memory
        return None
    first = {stage: each[0] for stage, each in plan.placements.items()}
    devices = [first[stage].backend.device for stage in ("unet", decoder)]
    if devices[0] == devices[1] or not any(map(needs_worker, devices)):
        return None
    decoding = planner.need(first.pop(decoder))
    denoising = max(map(planner.need, first.values()))
    cap = planner.max_memory or planner.cap // 2  # others want memory too
    spare = (cap - denoising - decoding) // 2
    if spare < 0:
        return None
    pipeline.stages.planner = planner.within(denoising + spare)
    return TextToVideo(pipeline.bundle, planner.within(decoding + spare), pipeline.notices)
