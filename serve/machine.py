"""The routes of this machine: models, devices, promises, unfinished videos."""

import threading
from functools import cache
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request

from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.serve.answers import refusals
from hummingbird_edge.serve.models import Catalog
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import (
    DeviceList,
    DeviceObject,
    ModelList,
    PromiseObject,
    StagePromise,
    UnfinishedList,
    UnfinishedObject,
    VideoObject,
    model_object,
)
from hummingbird_edge.serve.service import Service, Wanted
from hummingbird_edge.serve.unfinished import find_kept, list_kept, resume_kept
from hummingbird_edge.serve.videos import CREATE_BODY, read_body

__all__ = ["machine_routes"]


class Forecaster:
    """Says what videos will take; plans as a worker would, and loads nothing."""

    def __init__(self, max_memory: int | None) -> None:
        self._max_memory = max_memory
        self._planners: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def promise(self, wanted: Wanted, device: str) -> PromiseObject:
        """Return what a video will take; raises HummingbirdError where it cannot be made."""
        from hummingbird_edge.runtime.placement.planner import Planner
        from hummingbird_edge.runtime.placement.stages import promise_of

        model, request = wanted.model, wanted.request
        with self._lock:
            key = model.name, device
            if key not in self._planners:
                self._planners[key] = Planner(
                    model.bundle, device=device, max_memory=self._max_memory
                )
            planner, sizes = self._planners[key], request.stage_sizes(model.bundle.manifest)
            plan = planner.plan(sizes)
            found = promise_of(model.bundle, planner, plan, sizes, request.steps, request.frames)
        stages = [
            StagePromise(
                stage=name,
                device=each.placement.backend.device.name,
                precision=str(each.placement.backend.precision),
                seconds=round(each.total_s, 4),
            )
            for name, each in found.stages.items()
        ]
        return PromiseObject(
            seconds=round(found.total_s, 3),
            memory_bytes=found.memory_bytes,
            text=str(found),
            stages=stages,
        )


def machine_routes(service: Service, max_memory: int | None) -> APIRouter:
    """Return the routes."""
    routes, forecaster = APIRouter(prefix="/v1", tags=["machine"]), Forecaster(max_memory)

    @routes.get("/models", responses=refusals())
    async def list_models() -> ModelList:
        """Return the models, with their defaults and limits."""
        return ModelList(data=[model_object(model) for model in service.catalog.models.values()])

    @routes.post("/promise", responses=refusals(), openapi_extra=CREATE_BODY)
    async def promise(request: Request) -> PromiseObject:
        """Say what a video will take; the body is that of a video to be made."""
        wanted = service.check(await read_body(request))
        device = service.devices[0] if wanted.device == "auto" else wanted.device
        try:
            return await to_thread.run_sync(forecaster.promise, wanted, device)
        except HummingbirdError as error:
            raise Problem(400, "invalid_value", str(error)) from error

    @routes.get("/devices", responses=refusals())
    async def list_devices() -> DeviceList:
        """Return the devices there could be, and what was measured on them."""
        return await to_thread.run_sync(_devices, service.catalog, list(service.devices))

    _add_unfinished(routes, service)
    return routes


def _add_unfinished(routes: APIRouter, service: Service) -> None:
    @routes.get("/unfinished", responses=refusals())
    async def list_unfinished() -> UnfinishedList:
        """Return the videos that were interrupted, here or in `hb-run`."""
        own = [
            UnfinishedObject(
                id=job.id,
                prompt=job.prompt,
                step=min(job.step or 0, job.num_inference_steps),
                steps=job.num_inference_steps,
                created_at=int(job.created_at),
            )
            for job in service.resumable()
        ]
        return UnfinishedList(data=[*own, *await to_thread.run_sync(list_kept, service.catalog)])

    @routes.post("/unfinished/{unfinished_id}/resume", responses=refusals(404, 409, 429))
    async def resume_unfinished(unfinished_id: str) -> VideoObject:
        """Go on with a video after its last step."""
        if service.jobs.find(unfinished_id) is not None:
            return service.shown(service.resume(unfinished_id))
        kept = find_kept(unfinished_id)
        if kept is None:
            message = f"there is no unfinished video {unfinished_id[:80]!r}: list them again"
            raise Problem(404, "not_found", message)
        return service.shown(resume_kept(service, kept))


def _devices(catalog: Catalog, workers: list[str]) -> DeviceList:
    return DeviceList(devices=_known(), workers=workers, measured=_measured(catalog))


@cache
def _known() -> list[DeviceObject]:
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


def _measured(catalog: Catalog) -> list[dict[str, Any]]:
    """Return what earlier videos took, stage by stage."""
    from dataclasses import asdict

    from hummingbird_edge.runtime.placement.history import History

    found: list[dict[str, Any]] = []
    for model in catalog.models.values():
        for key, record in History.of(model.bundle).records.items():
            backend, _, shape = key.partition(" {")
            stage, _, backend = backend.partition(" ")
            entries = {"model": model.name, "stage": stage, "backend": backend}
            found.append({**entries, "shape": "{" + shape, **asdict(record)})
    return found
