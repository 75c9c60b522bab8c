"""Make the videos of `hb-run`, keep what is done of each, and say what came of it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hummingbird_edge.runtime.cli.background import Background
from hummingbird_edge.runtime.cli.enhancing import FAST, enhance
from hummingbird_edge.runtime.cli.jobs import Job
from hummingbird_edge.runtime.cli.progress import display
from hummingbird_edge.runtime.command import note, say
from hummingbird_edge.runtime.errors import OutputError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.cli.progress import Display
    from hummingbird_edge.runtime.media.enhancement import Enhancement
    from hummingbird_edge.runtime.media.unfinished import Kept
    from hummingbird_edge.runtime.pipeline import TextToVideo
    from hummingbird_edge.runtime.placement.plan import Placement
    from hummingbird_edge.runtime.placement.promise import Promise
    from hummingbird_edge.runtime.placement.stages import Memory
    from hummingbird_edge.runtime.request import Request
    from hummingbird_edge.runtime.result import Denoised, Progress, Video

__all__ = ["Wanted", "make_all"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user wants in addition to videos."""

    as_json: bool = False
    verbose: bool = False
    quiet: bool = False
    preview: bool = False
    latents: Path | None = None
    """Where the latents of the video go."""
    origin: Mapping[str, object] | None = None
    """What `--resume` needs again: the options that say how, and the enhancement."""
    enhancement: "Enhancement | None" = None
    """What is done to the pixels of each video."""


def make_all(
    pipeline: "TextToVideo", jobs: Sequence[Job], given: Mapping[str, Any], wanted: Wanted
) -> None:
    """Make the videos of `jobs`, with the settings that the user gave.

    Of several, one is written, and decoded where another device does that, while the next computes.
    """
    from hummingbird_edge.runtime.cli.pipelining import decoding_elsewhere
    from hummingbird_edge.runtime.decoder import require_preview
    from hummingbird_edge.runtime.media.video import check_output

    requests = [job.request(pipeline.bundle, given) for job in jobs]
    after = wanted.enhancement
    for job in jobs:
        check_output(job.output, None if after is None else (after.width, after.height))
    if after is not None and after.by == FAST and jobs[0].start is None:
        pipeline.notices.note(_fast_note(requests[0], after))
    if wanted.preview:
        require_preview(pipeline.manifest)
    # Enhancing computes too, and its frames can be many times as large as was planned for.
    overlaps = len(jobs) > 1 and after is None
    decoding = decoding_elsewhere(pipeline, requests[0]) if overlaps else None
    with Background(overlaps) as background:
        for request, job in zip(requests, jobs, strict=True):
            making = Making(request, job, wanted, background)
            rest = making.denoise(pipeline, decoding) if decoding else making.make(pipeline)
            background.run(rest)


def _fast_note(request: "Request", after: "Enhancement") -> str:
    generated, shown = f"{request.width}x{request.height}", f"{after.width}x{after.height}"
    return f"--fast generates {generated}, then enlarges that to {shown}"


@dataclass(slots=True)
class Making:
    """One video that is being made."""

    request: "Request"
    job: Job
    wanted: Wanted
    background: Background
    """Where the earlier video is finished."""
    kept: "Kept" = field(init=False)

    def __post_init__(self) -> None:
        from hummingbird_edge.runtime.media.unfinished import Kept

        origin = {**(self.wanted.origin or {}), "output": os.fspath(self.job.output.absolute())}
        self.kept = Kept(origin, note, None if self.job.is_decoding else self.job.file)

    def make(self, pipeline: "TextToVideo") -> Callable[[], None]:
        """Make the video; returns what is left: to write it and to say so."""
        with self._leaving_steps():
            video = self._last(pipeline).video
            assert video is not None
            # What ran before an interruption belongs to how the video was made.
            video = replace(video, settings=_settings(pipeline, self.request, self.job))
            if self.wanted.verbose:
                _say_placements(pipeline.placements, video.memory)
            if self.wanted.latents is not None:
                _save_latents(self.wanted.latents, video)
            video = enhance(video, self.wanted.enhancement)
        made = _Made(video, self.job.output, pipeline.placements, pipeline.stages.promise)
        return partial(self._finish, made)

    def denoise(self, pipeline: "TextToVideo", decoding: "TextToVideo") -> Callable[[], None]:
        """Take the video's steps; returns what is left: to decode by `decoding`, and to write."""
        with self._leaving_steps():
            denoised = self._last(pipeline, decodes=False).handover
            assert denoised is not None
        settings = _settings(pipeline, self.request, self.job)
        placements, promise = pipeline.placements, pipeline.stages.promise

        def decode() -> None:
            with self._leaving_steps():
                video = self._decoded(decoding, denoised, settings)
            placed = {**placements, **decoding.placements}
            if self.wanted.verbose:
                _say_placements(placed, video.memory)
            stages = {**promise.stages, **decoding.stages.promise.stages}
            self._finish(_Made(video, self.job.output, placed, replace(promise, stages=stages)))

        return decode

    def _decoded(
        self, decoding: "TextToVideo", denoised: "Denoised", settings: Mapping[str, object]
    ) -> "Video":
        """Return the video of `denoised`, which was begun with `settings`."""
        from hummingbird_edge.runtime.media.latents import LatentsFile

        steps = self.request.steps
        video: Video | None = None
        for progress in decoding.generate(self.request, resume=(steps, denoised.latents)):
            self.background.require_going_on()
            video = progress.video
        assert video is not None  # the last one carries it
        job = replace(self.job, start=LatentsFile(settings, steps, denoised.latents, {}))
        return replace(
            video,
            settings=_settings(decoding, self.request, job),
            timings=denoised.timings.with_decoding(video.timings),
            memory=denoised.memory.with_decoding(video.memory),
        )

    @contextmanager
    def _leaving_steps(self) -> Iterator[None]:
        """Leave what is kept, and say so, where the work ends early."""
        try:
            yield
        except BaseException:
            self.kept.leave()
            if self.kept.taken > 0:
                note(
                    f"{self.kept.taken} of {self.request.steps} steps are kept: "
                    f"hb-run --resume goes on there"
                )
            raise

    def _last(self, pipeline: "TextToVideo", decodes: bool = True) -> "Progress":
        """Show the progress of a video, and return the last.

        Each step's latents are kept; with `preview` its picture is written next to the video.
        """
        request, job = self.request, self.job
        resume = None
        if job.start is not None and job.start.taken:
            resume = job.start.taken, job.start.latents
        if not job.is_decoding:
            self.kept.keep(_settings(pipeline, request, job), *(resume or (0, None)))
        with display(self.wanted.quiet) as shown:
            for progress in pipeline.generate(request, resume=resume, decodes=decodes):
                self.background.check()
                if progress.promise is not None:
                    shown.promise(progress.promise)
                elif progress.stage == "done":
                    return progress
                else:
                    self._show(pipeline, progress, shown)
        raise AssertionError("the generator ends with a video")

    def _show(self, pipeline: "TextToVideo", progress: "Progress", shown: "Display") -> None:
        request, job = self.request, self.job
        if progress.latents is not None:
            settings = _settings(pipeline, request, job)
            self.kept.keep(settings, progress.index, progress.latents)
        shown.update(progress, pipeline.placements[progress.stage].backend.device.name)
        if self.wanted.preview and progress.denoised is not None:
            _write_preview(pipeline, progress, request, job.output)

    def _finish(self, made: "_Made") -> None:
        """Write the video and print where it is."""
        with self._leaving_steps():
            made.video.save(made.path)
        self.kept.remove()
        made.print(self.wanted.as_json)


@dataclass(frozen=True, slots=True)
class _Made:
    """A video, and what there is to say of it."""

    video: "Video"
    path: Path
    placements: Mapping[str, "Placement"]
    promise: "Promise"

    def print(self, as_json: bool) -> None:
        """Print it on stdout; raises OutputError."""
        entries = {
            "path": str(self.path),
            "settings": self.video.settings,
            "stages": {name: found.as_dict() for name, found in self.placements.items()},
            "timings": self.video.timings.as_dict(),
            "memory": self.video.memory.as_dict(),
            "promise": self.promise.as_dict(),
        }
        text = json.dumps(entries) if as_json else f"{self.path}\n{self.video.timings}"
        try:
            print(text, flush=True)
        except OSError as error:
            raise OutputError(
                f"the video is saved as {self.path}, but the standard output cannot be written "
                f"({error.strerror or error})"
            ) from error


def _say_placements(placements: Mapping[str, "Placement"], memory: "Memory") -> None:
    for stage, placement in placements.items():
        say(f"{stage}: {placement}")
    say(f"memory: {memory}")


def _settings(pipeline: "TextToVideo", request: "Request", job: Job) -> dict[str, object]:
    """Return how the video is made so far, with what ran before it was interrupted."""
    from hummingbird_edge.runtime.result import settings_of

    found = settings_of(request, pipeline.bundle, pipeline.placements)
    for name in ("devices", "precisions"):
        before = {} if job.start is None else job.start.settings.get(name)
        now = found[name]
        assert isinstance(now, dict)
        found[name] = {**(before if isinstance(before, dict) else {}), **now}
    return found


def _write_preview(
    pipeline: "TextToVideo", progress: "Progress", request: "Request", path: Path
) -> None:
    from hummingbird_edge.runtime.media.video import write_video

    assert progress.denoised is not None
    frames = pipeline.preview(progress.denoised)
    target = path.with_name(f"{path.stem}-step-{progress.index}.webp")
    settings = {**request.settings(), "preview_of_step": progress.index}
    write_video(target, frames, request.fps, settings)
    say(f"preview: {target}")


def _save_latents(path: Path, video: "Video") -> None:
    from hummingbird_edge.runtime.media.latents import LatentsFile, write_latents

    try:
        write_latents(path, LatentsFile(video.settings, video.request.steps, video.latents, {}))
    except OSError as error:
        raise OutputError(
            f"the latents cannot be written to {path} ({error.strerror or error}): choose another "
            f"name or a folder you can write to"
        ) from error
