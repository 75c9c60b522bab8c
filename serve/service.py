"""What users can do with videos, whichever protocol they speak."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.request import EMPTY_PROMPT, NAMES, Request, settings_of_body
from hummingbird_edge.serve.job import OPEN, Job, Settings
from hummingbird_edge.serve.jobs import Jobs
from hummingbird_edge.serve.models import Model, ModelObject
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import CreateBody
from hummingbird_edge.serve.store import STATE, Store

__all__ = ["Service", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A video that may be made."""

    model: Model
    request: Request
    device: str


@dataclass(slots=True)
class Service:
    """Creates, finds, changes and removes videos; for one thread."""

    store: Store
    models: dict[str, Model]
    """By name, the default one first."""
    devices: tuple[str, ...]
    """Each has a worker."""
    max_memory: int | None
    """Bytes of each worker."""
    max_queue: int
    """Videos that may be queued or in progress at once."""
    is_stopping: Callable[[], bool] = lambda: False
    """Whether the server ends: whoever goes away then does not give up."""
    jobs: Jobs = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = self.store.jobs()

    def shown_models(self) -> list[ModelObject]:
        """Return how the API shows the models."""
        return [model.shown(self.devices) for model in self.models.values()]

    def check(self, body: CreateBody) -> Wanted:
        """Return what a request wants, with its model's defaults; raises Problem."""
        model = self._model(body.model)
        device = body.device or "auto"
        if device not in ("auto", *self.devices):
            names = ", ".join(dict.fromkeys(["auto", *self.devices]))
            raise _invalid("device", f"no worker is for the device {device!r}: choose {names}")
        if not body.prompt.strip():
            raise _invalid("prompt", EMPTY_PROMPT)
        seed = secrets.randbelow(1 << 31) if body.seed is None else body.seed
        try:
            settings = self._settings(body, model).runtime()
            request = Request.for_model(
                model.bundle.manifest, body.prompt, seed, body.decoder, **settings
            )
        except HummingbirdError as error:
            raise Problem(400, "invalid_value", str(error)) from error
        return Wanted(model, request, device)

    def create(self, body: CreateBody, **more: Any) -> Job:
        """Queue a video, with `more` columns; raises Problem."""
        from hummingbird_edge.runtime.cli.info import command_again

        wanted = self.check(body)
        request, bundle = wanted.request, wanted.model.bundle
        origin = {"model": bundle.manifest.name, "bundle_sha256": bundle.digest}
        with self.jobs.transaction():
            self._require_room()
            key = self.jobs.add(
                **Settings.of(request).model_dump(),
                model=wanted.model.name,
                prompt=request.prompt,
                seed=request.seed,
                decoder=request.decoder,
                device=wanted.device,
                command=command_again({**request.settings(), **origin}),
                **more,
            )
            return self.find(key)

    def remix(self, key: str, prompt: str) -> Job:
        """Queue a video with the settings and seed of another; raises Problem."""
        job = self.find(key)
        same = job.model_dump(include={*Settings.model_fields, "model", "seed", "decoder"})
        device = job.device if job.device in self.devices else "auto"
        body = CreateBody(prompt=prompt, device=device, **same)
        return self.create(body, remixed_from=key, enhancement=job.enhancement)

    def find(self, key: str) -> Job:
        """Return a video; raises Problem where there is none."""
        job = self.jobs.find(key)
        if job is None:
            raise Problem(404, "not_found", f"there is no video {key[:80]!r}: it may be deleted")
        return job

    def cancel(self, key: str) -> Job:
        """Stop a video within a step and keep its entry; raises Problem where it has ended."""
        return self._changed(key, self.jobs.cancel(key), "already_finished", "nothing to cancel")

    def delete(self, key: str) -> None:
        """Remove a video; a worker that makes it stops within a step. Raises Problem."""
        self.jobs.delete(self.find(key).id)
        self.store.remove(key)

    def move(self, key: str, position: int) -> Job:
        """Put a queued video elsewhere in the queue; raises Problem."""
        is_moved = self.jobs.move(key, position)
        return self._changed(key, is_moved, "not_queued", "only queued ones move")

    def pin(self, key: str, pinned: bool) -> Job:
        """Keep a video when room is made, or no longer; raises Problem."""
        self.jobs.update(key, pinned=pinned)
        return self.find(key)

    def resume(self, key: str) -> Job:
        """Queue a video that failed or was cancelled again; raises Problem."""
        with self.jobs.transaction():
            self._require_room()
            is_queued = self.jobs.requeue(key)
        return self._changed(key, is_queued, "not_unfinished", "nothing to do")

    def adopt(self, body: CreateBody, state: Path, **more: Any) -> Job:
        """Queue a video with the steps that lie in the file `state`; raises Problem."""
        job = self.create(body, **more, status="cancelled")  # until the file is here
        try:
            self.store.adopt(job.id, state)
        except OSError as error:
            self.delete(job.id)
            message = f"its file cannot be taken over ({error})"
            raise Problem(409, "not_unfinished", message) from error
        self.jobs.requeue(job.id)
        return self.find(job.id)

    def resumable(self) -> list[Job]:
        """Return the videos that ended before they were made, and whose steps are kept."""
        return [job for job in self.jobs.stopped() if (self.store.of(job.id) / STATE).exists()]

    def _changed(self, key: str, is_changed: bool, code: str, reason: str) -> Job:
        """Return a video after a change; raises Problem where its status allowed none."""
        job = self.find(key)
        if not is_changed:
            raise Problem(409, code, f"the video is {job.status}: {reason}")
        return job

    def _model(self, name: str | None) -> Model:
        if name is None:
            return next(iter(self.models.values()))
        if (model := self.models.get(name)) is None:
            message = f"there is no model {name[:80]!r}: choose {', '.join(self.models)}"
            raise Problem(400, "model_not_found", message, "model")
        return model

    def _settings(self, body: CreateBody, model: Model) -> Settings:
        defaults = model.defaults
        asked = settings_of_body(body.model_dump(), defaults.fps)
        settings = defaults.model_copy(update={NAMES[old]: new for old, new in asked.items()})
        for name, limit in model.limits.items():
            value = getattr(settings, name)
            if (refusal := limit.refusal(value)) is None:
                continue
            if getattr(body, name) is not None:
                raise _invalid(name, f"{name} is {value}: {refusal}")
            if name == "num_frames":
                fps = settings.fps
                least, most = (round(frames / fps, 3) for frames in (limit.min, limit.max))
                text = f"seconds is {body.seconds}, {value} frames at {fps} a second"
                raise _invalid("seconds", f"{text}: give from {least:g} to {most:g}")
            raise _invalid("size", f"size is {body.size}: for the {name}, {refusal}")
        return settings

    def _require_room(self) -> None:
        if self.jobs.count(*OPEN) >= self.max_queue:
            message = f"{self.max_queue} videos are queued already: wait until one is made"
            raise Problem(429, "queue_full", message)
        if not self.store.has_room():
            message = "the disk is full: free some space, or delete videos"
            raise Problem(507, "storage_full", message)


def _invalid(param: str, message: str) -> Problem:
    return Problem(400, "invalid_value", message, param)
