"""Videos that `hb-run` was making when it was interrupted: the server can finish them."""

import shutil

from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.media.unfinished import Unfinished, list_unfinished
from hummingbird_edge.serve.jobs import Job
from hummingbird_edge.serve.models import Catalog, Model
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import CreateBody, UnfinishedObject
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.store import STATE

__all__ = ["find_kept", "list_kept", "resume_kept"]

_NAMES = {
    "prompt": "prompt",
    "frames": "num_frames",
    "width": "width",
    "height": "height",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "fps": "fps",
    "seed": "seed",
}


def list_kept(catalog: Catalog) -> list[UnfinishedObject]:
    """Return what can be resumed with the server's models, the newest first."""
    return [
        UnfinishedObject(
            id=each.path.stem,
            prompt=str(each.file.settings.get("prompt", "")),
            step=each.file.taken,
            steps=_steps(each),
            created_at=int(each.modified),
        )
        for each in _free()
        if _model_of(each, catalog) is not None
    ]


def find_kept(key: str) -> Unfinished | None:
    """Return the unfinished video of this id, which is compared with those that there are."""
    return next((each for each in _free() if each.path.stem == key), None)


def resume_kept(service: Service, kept: Unfinished) -> Job:
    """Queue an unfinished video and take its file over; raises Problem."""
    model, settings = _model_of(kept, service.catalog), kept.file.settings
    if model is None or settings.get("decoder", "full") != "full":
        message = "the video is of another model or decoder than the server has: hb-run --resume"
        raise Problem(409, "other_model", message)
    body = {new: settings.get(old) for old, new in _NAMES.items()}
    wanted = service.check(CreateBody.model_validate({**body, "model": model.name}, strict=False))
    job = service.adopt(wanted)
    try:
        service.store.of(job.id).mkdir(parents=True)
        shutil.move(kept.path, service.store.of(job.id) / STATE)
    except (OSError, OutputError) as error:
        service.delete(job.id)
        raise Problem(409, "not_unfinished", f"its file cannot be taken over ({error})") from error
    service.jobs.requeue(job.id)
    return service.find(job.id)


def _steps(kept: Unfinished) -> int:
    steps = kept.file.settings.get("steps")
    return steps if isinstance(steps, int) else kept.file.taken


def _free() -> list[Unfinished]:
    return [each for each in list_unfinished() if not each.is_running]


def _model_of(kept: Unfinished, catalog: Catalog) -> Model | None:
    digest = kept.file.settings.get("bundle_sha256")
    found = (model for model in catalog.models.values() if model.bundle.digest == digest)
    return next(found, None)
