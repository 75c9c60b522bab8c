"""Videos that were interrupted, here or in `hb-run`: the server can finish them."""

from pydantic import BaseModel

from hummingbird_edge.runtime.media.unfinished import Unfinished, list_unfinished
from hummingbird_edge.runtime.request import NAMES
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.models import Model
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import CreateBody
from hummingbird_edge.serve.service import Service

__all__ = ["UnfinishedObject", "list_kept", "list_own", "resume"]

_NAMES = {**NAMES, "prompt": "prompt", "seed": "seed", "decoder": "decoder"}


class UnfinishedObject(BaseModel):
    """A video that was interrupted."""

    id: str
    prompt: str
    step: int
    steps: int
    created_at: int


def list_own(service: Service) -> list[UnfinishedObject]:
    """Return what this server has begun, the newest first."""
    return [
        UnfinishedObject(
            id=job.id,
            prompt=job.prompt,
            step=min(job.step or 0, job.num_inference_steps),
            steps=job.num_inference_steps,
            created_at=job.created_at,
        )
        for job in service.resumable()
    ]


def list_kept(models: dict[str, Model]) -> list[UnfinishedObject]:
    """Return what `hb-run` has begun with these models, the newest first."""
    return [
        UnfinishedObject(
            id=each.path.stem,
            prompt=str(each.file.settings.get("prompt", "")),
            step=each.file.taken,
            steps=_steps(each),
            created_at=int(each.modified),
        )
        for each in _free()
        if _model_of(each, models) is not None
    ]


def resume(service: Service, key: str) -> Job:
    """Queue an unfinished video again; raises Problem."""
    if service.jobs.find(key) is not None:
        return service.resume(key)
    # The id is compared with those that there are.
    kept = next((each for each in _free() if each.path.stem == key), None)
    if kept is None:
        message = f"there is no unfinished video {key[:80]!r}: list them again"
        raise Problem(404, "not_found", message)
    model = _model_of(kept, service.models)
    if model is None:
        message = "the video is of another model than the server has: hb-run --resume"
        raise Problem(409, "other_model", message)
    body = {new: kept.file.settings.get(old) for old, new in _NAMES.items()}
    wanted = CreateBody.model_validate({**body, "model": model.name}, strict=False)
    return service.adopt(wanted, kept.path, enhancement=kept.file.origin.get("enhancement"))


def _steps(kept: Unfinished) -> int:
    steps = kept.file.settings.get("steps")
    return steps if isinstance(steps, int) else kept.file.taken


def _free() -> list[Unfinished]:
    return [each for each in list_unfinished() if not each.is_running]


def _model_of(kept: Unfinished, models: dict[str, Model]) -> Model | None:
    digest = kept.file.settings.get("bundle_sha256")
    return next((each for each in models.values() if each.bundle.digest == digest), None)
