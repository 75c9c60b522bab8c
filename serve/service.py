"""What users can do with videos, whichever protocol they speak."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.serve.jobs import FINISHED, Job, Jobs
from hummingbird_edge.serve.models import Catalog, Model
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import CreateBody, VideoObject, video_object
from hummingbird_edge.serve.store import STATE, Store

__all__ = ["Service", "Wanted"]

_SETTINGS = ("width", "height", "num_frames", "fps", "num_inference_steps")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A video that may be made."""

    model: Model
    request: Request
    device: str


class Service:
    """Creates, finds, changes and removes videos; for one thread."""

    def __init__(
        self, store: Store, catalog: Catalog, devices: tuple[str, ...], max_queue: int
    ) -> None:
        self.store, self.catalog, self.devices = store, catalog, devices
        self.jobs: Jobs = store.jobs()
        self.max_queue = max_queue
        """Videos that may be queued or in progress at once."""

    def check(self, body: CreateBody) -> Wanted:
        """Return what a request wants, with its model's defaults; raises Problem."""
        model = self._model(body.model)
        device = body.device or "auto"
        if device != "auto" and device not in self.devices:
            known = ", ".join(dict.fromkeys(["auto", *self.devices]))
            raise _invalid("device", f"no worker is for the device {device!r}: choose {known}")
        settings = self._settings(body, model)
        guidance = settings.pop("guidance_scale")
        try:
            request = Request.for_model(
                model.bundle.manifest,
                body.prompt,
                secrets.randbelow(1 << 31) if body.seed is None else body.seed,
                frames=settings.pop("num_frames"),
                steps=settings.pop("num_inference_steps"),
                guidance=guidance,
                **settings,
            )
        except HummingbirdError as error:
            raise Problem(400, "invalid_value", str(error)) from error
        if not request.prompt.strip():
            raise _invalid("prompt", "the prompt is empty: say what the video shows")
        return Wanted(model, request, device)

    def create(self, body: CreateBody, remixed_from: str | None = None) -> Job:
        """Queue a video; raises Problem."""
        wanted = self.check(body)
        with self.jobs.transaction():
            self._require_room()
            return self.jobs.add(_columns(wanted, remixed_from))

    def remix(self, key: str, prompt: str) -> Job:
        """Queue a video with the settings and seed of another; raises Problem."""
        job = self.find(key)
        same: Mapping[str, Any] = {name: getattr(job, name) for name in _SETTINGS}
        body = CreateBody(
            prompt=prompt,
            model=job.model,
            seed=job.seed,
            guidance_scale=job.guidance_scale,
            device=job.device if job.device in self.devices else None,
            **same,
        )
        return self.create(body, remixed_from=job.id)

    def find(self, key: str) -> Job:
        """Return a video; raises Problem where there is none."""
        job = self.jobs.find(key)
        if job is None:
            raise Problem(404, "not_found", f"there is no video {key[:80]!r}: it may be deleted")
        return job

    def shown(self, job: Job) -> VideoObject:
        """Return how the API shows a video now."""
        position = self.jobs.count_ahead(job) if job.status == "queued" else None
        return video_object(job, position)

    def cancel(self, key: str) -> Job:
        """Stop a video within a step and keep its entry; raises Problem where it has ended."""
        job = self.find(key)
        if not self.jobs.cancel(key):
            raise Problem(409, "already_finished", f"the video is {job.status}: nothing to cancel")
        return self.find(key)

    def delete(self, key: str) -> None:
        """Remove a video; a worker that makes it stops within a step. Raises Problem."""
        if not self.jobs.delete(self.find(key).id):
            raise Problem(404, "not_found", f"there is no video {key[:80]!r}: it may be deleted")
        self.store.remove(key)

    def move(self, key: str, position: int) -> Job:
        """Put a queued video elsewhere in the queue; raises Problem."""
        job = self.find(key)
        if not self.jobs.move(key, position):
            raise Problem(409, "not_queued", f"the video is {job.status}: only queued ones move")
        return self.find(key)

    def pin(self, key: str, pinned: bool) -> Job:
        """Keep a video when room is made, or no longer; raises Problem."""
        self.find(key)
        self.jobs.update(key, pinned=int(pinned))
        return self.find(key)

    def resume(self, key: str) -> Job:
        """Queue a video that failed or was cancelled again; raises Problem."""
        job = self.find(key)
        with self.jobs.transaction():
            self._require_room()
            if not self.jobs.requeue(key):
                raise Problem(409, "not_unfinished", f"the video is {job.status}: nothing to do")
        return self.find(key)

    def resumable(self) -> list[Job]:
        """Return the videos that ended before they were made, and whose steps are kept."""
        kept = (job for job in self.jobs.disposable() if job.status in FINISHED[1:])
        return [job for job in kept if (self.store.of(job.id) / STATE).exists()]

    def adopt(self, wanted: Wanted) -> Job:
        """Add a video that is not queued yet, for a state that lies elsewhere; raises Problem."""
        with self.jobs.transaction():
            self._require_room()
            return self.jobs.add({**_columns(wanted, None), "status": "cancelled"})

    def _model(self, name: str | None) -> Model:
        if name is None:
            return self.catalog.default
        if (model := self.catalog.models.get(name)) is None:
            known = ", ".join(self.catalog.models)
            message = f"there is no model {name[:80]!r}: choose {known}"
            raise Problem(400, "model_not_found", message, "model")
        return model

    def _settings(self, body: CreateBody, model: Model) -> dict[str, Any]:
        given = {name: getattr(body, name) for name in (*_SETTINGS, "guidance_scale")}
        if body.size is not None:
            width, _, height = body.size.partition("x")
            given["width"] = int(width) if body.width is None else body.width
            given["height"] = int(height) if body.height is None else body.height
        settings = {n: model.defaults[n] if v is None else v for n, v in given.items()}
        if body.seconds is not None and body.num_frames is None:
            settings["num_frames"] = round(float(body.seconds) * settings["fps"])
        for name, limit in model.limits.items():
            if (refusal := limit.refusal(settings[name])) is not None:
                raise _invalid(name, f"{name} is {settings[name]}: {refusal}")
        return settings

    def _require_room(self) -> None:
        if self.jobs.count_open() >= self.max_queue:
            message = f"{self.max_queue} videos are queued already: wait until one is made"
            raise Problem(429, "queue_full", message)
        if not self.store.has_room():
            message = "the disk is full: free some space, or delete videos"
            raise Problem(507, "storage_full", message)


def _invalid(param: str, message: str) -> Problem:
    return Problem(400, "invalid_value", message, param)


def _columns(wanted: Wanted, remixed_from: str | None) -> dict[str, Any]:
    """Return the columns of a new job."""
    from hummingbird_edge.runtime.cli.info import command_again

    request, bundle = wanted.request, wanted.model.bundle
    settings = {
        **request.settings(),
        "model": bundle.manifest.name,
        "bundle_sha256": bundle.digest,
    }
    return {
        "model": wanted.model.name,
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "num_frames": request.frames,
        "fps": request.fps,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "seed": request.seed,
        "device": wanted.device,
        "remixed_from": remixed_from,
        "command": command_again(settings),
    }
