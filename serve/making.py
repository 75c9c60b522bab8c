"""Make one job's video in a worker: report every step, keep its state, stop when told to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.cli.enhancing import restored
from hummingbird_edge.runtime.cli.info import command_again
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.media.latents import read_latents
from hummingbird_edge.runtime.media.unfinished import Kept
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.promise import Promise
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Progress, Video, settings_of
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.pictures import write_files, write_strip
from hummingbird_edge.serve.store import PREVIEW, STATE

__all__ = ["Making", "Stopped"]

Report = Callable[..., bool]
"""Sets columns of the job; tells whether it is still this worker's."""


class Stopped(Exception):
    """Raised where the job was cancelled or deleted."""


@dataclass(slots=True)
class Making:
    """One video that is being made."""

    job: Job
    folder: Path
    pipeline: TextToVideo
    report: Report
    notes: list[str]
    """What the runtime has to say of it; grows meanwhile."""
    request: Request = field(init=False)
    kept: Kept = field(init=False)
    promise: Promise | None = None

    def make(self) -> dict[str, Any]:
        """Make the video and its files; returns the columns that say how.

        Raises Stopped, or HummingbirdError or OSError.
        """
        job = self.job
        self.request = Request.for_model(
            self.pipeline.manifest, job.prompt, job.seed, job.decoder, **job.runtime()
        )
        enhancement = restored({"enhancement": job.enhancement}, self.request.settings())
        self.kept = Kept({}, self.notes.append, self.folder / STATE)
        self.folder.mkdir(parents=True, exist_ok=True)
        resume = self._resume()
        if resume is None:
            self._keep(0, None)
        for progress in self.pipeline.generate(self.request, resume=resume):
            if progress.promise is not None:
                self._begin(progress.promise)
            elif progress.video is None:
                self._tell(progress)
            else:
                video = progress.video
                return self._finish(video.with_enhancement(enhancement) if enhancement else video)
        raise AssertionError("the generator ends with a video")

    def _resume(self) -> tuple[int, NDArray[np.float32]] | None:
        """Return the steps that an earlier worker has taken; None where they are of no use."""
        try:
            file = read_latents(self.folder / STATE)
        except OutputError:
            return None
        wanted = {**self.request.settings(), "bundle_sha256": self.pipeline.bundle.digest}
        is_same = all(file.settings.get(name) == value for name, value in wanted.items())
        has_shape = file.latents.shape == self.request.latent_shape(self.pipeline.manifest)
        is_begun = 0 < file.taken <= self.request.steps
        return (file.taken, file.latents) if is_same and has_shape and is_begun else None

    def _keep(self, taken: int, latents: NDArray[np.float32] | None) -> None:
        pipeline = self.pipeline
        settings = settings_of(self.request, pipeline.bundle, pipeline.placements)
        self.kept.keep(settings, taken, latents)

    def _begin(self, promise: Promise) -> None:
        self.promise = promise
        told = {"seconds": promise.total_s, "text": str(promise)}
        self._report(promise=told, stage=next(iter(promise.stages)), notes=self.notes)

    def _tell(self, progress: Progress) -> None:
        """Report a part of the work; raises Stopped."""
        assert self.promise is not None
        if progress.latents is not None:
            self._keep(progress.index, progress.latents)
        has_preview = progress.denoised is not None and self._preview(progress.denoised)
        done_s = self.promise.seconds_until(progress.stage, progress.share)
        self._report(
            stage=progress.stage,
            step=progress.index,
            steps=progress.count,
            # 100 is for what is safe on disk.
            progress=min(99, int(100 * done_s / max(self.promise.total_s, 1e-9))),
            backends=self._backends(),
            notes=self.notes,
            deaths=0,
            **({"preview_step": progress.index} if has_preview else {}),
        )

    def _report(self, **values: Any) -> None:
        if not self.report(**values):
            raise Stopped

    def _preview(self, denoised: NDArray[np.float32]) -> bool:
        """Write what a step looks like; tell whether that was possible."""
        try:
            # A pixel for each latent one: the strip is sent as text with every step.
            frames, height = self.pipeline.preview(denoised), denoised.shape[-2]
            write_strip(self.folder / PREVIEW, frames, height)
        except (RequestError, OSError):  # a bundle without previews, or a disk without room
            return False
        return True

    def _finish(self, video: Video) -> dict[str, Any]:
        write_files(self.folder, video)
        times = video.timings
        seconds = {
            "load": sum(times.load_s.values()),
            "text_encoder": times.text_encoder_s,
            "unet": sum(times.unet_step_s),
            self.request.decoding_stage: times.vae_decoder_s,
            "total": times.total_s,
        }
        return {
            "timings": {name: round(value, 4) for name, value in seconds.items()},
            "backends": self._backends(),
            "command": command_again(dict(video.settings)),
            "notes": self.notes,
        }

    def _backends(self) -> dict[str, str]:
        return {stage: str(found.backend) for stage, found in self.pipeline.placements.items()}
