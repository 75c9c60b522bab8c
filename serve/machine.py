"""The routes of this machine: models, devices, promises, unfinished videos, health, metrics."""

import threading
from functools import cache, lru_cache
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.serve.answers import ServiceOf, refusals
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.models import Model, ModelObject
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import CreateBody, Listing
from hummingbird_edge.serve.service import Wanted
from hummingbird_edge.serve.unfinished import UnfinishedObject, list_kept, list_own, resume
from hummingbird_edge.serve.videos import CREATE_BODY, read_body

__all__ = ["routes"]

routes = APIRouter(tags=["machine"])
_PLANNING = threading.Lock()


class StageObject(BaseModel):
    """What is expected of a stage."""

    stage: str
    device: str
    precision: str
    seconds: float


class PromiseObject(BaseModel):
    """What a video will take."""

    seconds: float
    memory_bytes: int
    text: str
    stages: list[StageObject]


class DeviceObject(BaseModel):
    """A device that there could be."""

    name: str
    description: str
    available: bool
    reason: str


class DeviceList(BaseModel):
    """The devices, and what earlier videos and `--tune` measured on them."""

    devices: list[DeviceObject]
    workers: list[str]
    measured: list[dict[str, Any]]


@routes.get("/v1/models")
async def list_models(service: ServiceOf) -> Listing[ModelObject]:
    """Return the models, with their defaults and limits."""
    return Listing[ModelObject](data=service.shown_models())


@routes.post("/v1/promise", openapi_extra=CREATE_BODY)
async def promise(
    body: Annotated[CreateBody, Depends(read_body)], service: ServiceOf
) -> PromiseObject:
    """Say what a video will take; the body is that of a video to be made."""
    wanted = service.check(body)
    device = service.devices[0] if wanted.device == "auto" else wanted.device
    try:
        return await to_thread.run_sync(_promise, wanted, device, service.max_memory)
    except HummingbirdError as error:
        raise Problem(400, "invalid_value", str(error)) from error


@routes.get("/v1/devices")
async def list_devices(service: ServiceOf) -> DeviceList:
    """Return the devices there could be, and what was measured on them."""
    devices = await to_thread.run_sync(_known_devices)
    measured = await to_thread.run_sync(_measured, service.models)
    return DeviceList(devices=devices, workers=list(service.devices), measured=measured)


@routes.get("/v1/unfinished")
async def list_unfinished(service: ServiceOf) -> Listing[UnfinishedObject]:
    """Return the videos that were interrupted, here or in `hb-run`."""
    kept = await to_thread.run_sync(list_kept, service.models)
    return Listing[UnfinishedObject](data=[*list_own(service), *kept])


@routes.post("/v1/unfinished/{unfinished_id}/resume", responses=refusals(404, 409, 429))
async def resume_unfinished(unfinished_id: str, service: ServiceOf) -> Job:
    """Go on with a video after its last step."""
    return resume(service, unfinished_id)


@routes.get("/healthz")
async def health() -> dict[str, str]:
    """Say that the server answers."""
    return {"status": "ok"}


@routes.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Metrics."}},
)
async def show_metrics(request: Request) -> Response:
    """Return metrics for Prometheus."""
    text: bytes = request.app.state.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4")


@lru_cache(maxsize=32)
def _planner(model: Model, device: str, max_memory: int | None) -> Planner:
    return Planner(model.bundle, device=device, max_memory=max_memory)


def _promise(wanted: Wanted, device: str, max_memory: int | None) -> PromiseObject:
    """Return what a video will take; plans as a worker would, and loads nothing.

    Raises HummingbirdError where it cannot be made.
    """
    from hummingbird_edge.runtime.placement.stages import promise_of

    bundle, request = wanted.model.bundle, wanted.request
    with _PLANNING:
        planner = _planner(wanted.model, device, max_memory)
        sizes = request.stage_sizes(bundle.manifest)
        plan = planner.plan(sizes)
        found = promise_of(bundle, planner, plan, sizes, request.steps, request.frames)
    stages = [
        StageObject(
            stage=name,
            device=each.placement.backend.device.name,
            precision=str(each.placement.backend.precision),
            seconds=round(each.total_s, 4),
        )
        for name, each in found.stages.items()
    ]
    seconds, memory = round(found.total_s, 3), found.memory_bytes
    return PromiseObject(seconds=seconds, memory_bytes=memory, text=str(found), stages=stages)


@cache
def _known_devices() -> list[DeviceObject]:
    """Return what is known of devices: once, since drivers are listed and tried out for it."""
    from hummingbird_edge.runtime.devices.providers import PROVIDERS
    from hummingbird_edge.runtime.placement.probe import known_devices, probe

    devices = []
    for name in known_devices():
        verdict, provider = probe(name), PROVIDERS.get(name.partition(":")[0])
        devices.append(
            DeviceObject(
                name=name,
                description=(provider and provider.target) or name,
                available=verdict.works,
                reason=verdict.reason,
            )
        )
    return devices


def _measured(models: dict[str, Model]) -> list[dict[str, Any]]:
    """Return what earlier videos took, stage by stage."""
    from dataclasses import asdict

    from hummingbird_edge.runtime.placement.history import History

    found: list[dict[str, Any]] = []
    for model in models.values():
        for key, record in History.of(model.bundle).records.items():
            backend, _, shape = key.partition(" {")
            stage, _, backend = backend.partition(" ")
            entries = {"model": model.name, "stage": stage, "backend": backend}
            found.append({**entries, "shape": "{" + shape, **asdict(record)})
    return found
