"""Make one job's video in a worker: report every step, keep its state, stop when told to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.cli.info import command_again
from hummingbird_edge.runtime.errors import HummingbirdError, OutputError, RequestError
from hummingbird_edge.runtime.media.latents import read_latents
from hummingbird_edge.runtime.media.unfinished import Kept
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Progress, Video, settings_of
from hummingbird_edge.serve.jobs import Job
from hummingbird_edge.serve.pictures import write_files, write_strip
from hummingbird_edge.serve.store import PREVIEW, STATE

__all__ = ["Making", "Stopped", "code_of"]

Report = Callable[..., bool]
"""Sets columns of the job; tells whether it is still this worker's."""


class Stopped(Exception):
    """Raised where the job was cancelled or deleted."""


@dataclass(slots=True)
class Making:
    """One video that is being made."""

    job: Job
    folder: Path
    report: Report
    notes: list[str]
    """What the runtime has to say of it; grows meanwhile."""
    promise: Any = None
    kept: Kept = field(init=False)

    def __post_init__(self) -> None:
        self.kept = Kept({}, self.notes.append, self.folder / STATE)

    def make(self, pipeline: TextToVideo) -> Mapping[str, Any]:
        """Make the video and its files; returns what is to be known of it.

        Raises Stopped, or HummingbirdError or OSError.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        request = self._request(pipeline)
        resume = self._resume(pipeline, request)
        if resume is None:
            self._keep(pipeline, request, 0, None)
        for progress in pipeline.generate(request, resume=resume):
            if progress.video is not None:
                return self._finish(pipeline, request, progress.video)
            self._tell(pipeline, request, progress)
        raise AssertionError("the generator ends with a video")

    def _request(self, pipeline: TextToVideo) -> Request:
        job = self.job
        return Request.for_model(
            pipeline.manifest,
            job.prompt,
            job.seed,
            frames=job.num_frames,
            width=job.width,
            height=job.height,
            steps=job.num_inference_steps,
            guidance=job.guidance_scale,
            fps=job.fps,
        )

    def _resume(
        self, pipeline: TextToVideo, request: Request
    ) -> tuple[int, NDArray[np.float32]] | None:
        """Return the steps that an earlier worker has taken; None where they are of no use."""
        try:
            file = read_latents(self.folder / STATE)
        except OutputError:
            return None
        shape = request.latent_shape(pipeline.manifest)
        is_same = all(file.settings.get(n) == v for n, v in request.settings().items())
        if not is_same or file.settings.get("bundle_sha256") != pipeline.bundle.digest:
            return None
        if file.latents.shape != shape or not 0 < file.taken <= request.steps:
            return None
        return file.taken, file.latents

    def _keep(
        self,
        pipeline: TextToVideo,
        request: Request,
        taken: int,
        latents: NDArray[np.float32] | None,
    ) -> None:
        self.kept.keep(settings_of(request, pipeline.bundle, pipeline.placements), taken, latents)

    def _tell(self, pipeline: TextToVideo, request: Request, progress: Progress) -> None:
        """Report a part of the work; raises Stopped."""
        if progress.promise is not None:
            self.promise = progress.promise
            told = {"seconds": progress.promise.total_s, "text": str(progress.promise)}
            self._report(promise=told, stage=next(iter(progress.promise.stages)), notes=self.notes)
            return
        values: dict[str, Any] = {"deaths": 0}
        if progress.latents is not None:
            self._keep(pipeline, request, progress.index, progress.latents)
        if progress.denoised is not None and self._preview(pipeline, progress.denoised):
            values["preview_step"] = progress.index
        self._report(
            stage=progress.stage,
            step=progress.index,
            steps=progress.count,
            progress=self._percent(progress),
            backends=_backends(pipeline),
            notes=self.notes,
            **values,
        )

    def _report(self, **values: Any) -> None:
        if not self.report(**values):
            raise Stopped

    def _percent(self, progress: Progress) -> int:
        """Return how much is done, by the promised times; 100 is for what is safe on disk."""
        done = self.promise.seconds_until(progress.stage, progress.share)
        return min(99, int(100 * done / max(self.promise.total_s, 1e-9)))

    def _preview(self, pipeline: TextToVideo, denoised: NDArray[np.float32]) -> bool:
        """Write what a step looks like; tell whether that was possible."""
        try:
            write_strip(self.folder / PREVIEW, pipeline.preview(denoised))
        except (RequestError, OSError):  # a bundle without previews, or a disk without room
            return False
        return True

    def _finish(self, pipeline: TextToVideo, request: Request, video: Video) -> Mapping[str, Any]:
        write_files(self.folder, video)
        times = video.timings
        return {
            "timings": {
                "load": round(sum(times.load_s.values()), 4),
                "text_encoder": round(times.text_encoder_s, 4),
                "unet": round(sum(times.unet_step_s), 4),
                request.decoding_stage: round(times.vae_decoder_s, 4),
                "total": round(times.total_s, 4),
            },
            "backends": _backends(pipeline),
            "command": command_again(dict(video.settings)),
            "notes": self.notes,
        }


def code_of(error: Exception) -> str:
    """Return the word for programs of what went wrong."""
    if isinstance(error, OutputError | OSError):
        return "storage_error"
    if isinstance(error, RequestError):
        return "invalid_value"
    if isinstance(error, HummingbirdError):
        return "generation_failed"
    return "internal_error"


def _backends(pipeline: TextToVideo) -> dict[str, str]:
    return {stage: str(placed.backend) for stage, placed in pipeline.placements.items()}
