"""Make the videos of `hb-run`, keep what is done of each, and say what came of it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hummingbird_edge.runtime.cli.enhancing import enhance
from hummingbird_edge.runtime.cli.jobs import Job
from hummingbird_edge.runtime.cli.progress import display
from hummingbird_edge.runtime.command import note, say
from hummingbird_edge.runtime.errors import OutputError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.media.enhancement import Enhancement
    from hummingbird_edge.runtime.media.unfinished import Kept
    from hummingbird_edge.runtime.pipeline import TextToVideo
    from hummingbird_edge.runtime.request import Request
    from hummingbird_edge.runtime.result import Progress, Video

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
    """Make the videos of `jobs`, with the settings that the user gave."""
    from hummingbird_edge.runtime.decoder import require_preview
    from hummingbird_edge.runtime.media.video import check_output

    requests = [job.request(pipeline.bundle, given) for job in jobs]
    after = wanted.enhancement
    for job in jobs:
        check_output(job.output, None if after is None else (after.width, after.height))
    if wanted.preview:
        require_preview(pipeline.manifest)
    for request, job in zip(requests, jobs, strict=True):
        _make(pipeline, request, job, wanted)


def _make(pipeline: "TextToVideo", request: "Request", job: Job, wanted: Wanted) -> None:
    from hummingbird_edge.runtime.media.unfinished import Kept

    origin = {**(wanted.origin or {}), "output": os.fspath(job.output.absolute())}
    kept = Kept(origin, note, None if job.is_decoding else job.file)
    try:
        video = _generate(pipeline, request, job, kept, wanted)
        if wanted.verbose:
            for stage, placement in pipeline.placements.items():
                say(f"{stage}: {placement}")
            say(f"memory: {video.memory}")
        if wanted.latents is not None:
            _save_latents(wanted.latents, video)
        video = enhance(video, wanted.enhancement)
        video.save(job.output)
    except BaseException:
        kept.leave()
        if kept.taken > 0:
            note(f"{kept.taken} of {request.steps} steps are kept: hb-run --resume goes on there")
        raise
    kept.remove()
    _print_result(pipeline, video, job.output, wanted.as_json)


def _generate(
    pipeline: "TextToVideo", request: "Request", job: Job, kept: "Kept", wanted: Wanted
) -> "Video":
    """Make one video and show its progress.

    Each step's latents are kept; with `preview` its picture is written next to the video.
    """
    resume = None
    if job.start is not None and job.start.taken:
        resume = job.start.taken, job.start.latents
    if not job.is_decoding:
        kept.keep(_settings(pipeline, request, job), *(resume or (0, None)))
    with display(wanted.quiet) as shown:
        for progress in pipeline.generate(request, resume=resume):
            if progress.promise is not None:
                shown.promise(progress.promise)
            elif progress.video is not None:
                # What ran before an interruption belongs to how the video was made.
                return replace(progress.video, settings=_settings(pipeline, request, job))
            else:
                if progress.latents is not None:
                    kept.keep(_settings(pipeline, request, job), progress.index, progress.latents)
                shown.update(progress, pipeline.placements[progress.stage].backend.device.name)
                if wanted.preview and progress.denoised is not None:
                    _write_preview(pipeline, progress, request, job.output)
    raise AssertionError("the generator ends with a video")


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


def _print_result(pipeline: "TextToVideo", video: "Video", path: Path, as_json: bool) -> None:
    entries = {
        "path": str(path),
        "settings": video.settings,
        "stages": {name: found.as_dict() for name, found in pipeline.placements.items()},
        "timings": video.timings.as_dict(),
        "memory": video.memory.as_dict(),
        "promise": pipeline.stages.promise.as_dict(),
    }
    try:
        print(json.dumps(entries) if as_json else f"{path}\n{video.timings}", flush=True)
    except OSError as error:
        raise OutputError(
            f"the video is saved as {path}, but the standard output cannot be written "
            f"({error.strerror or error})"
        ) from error
