"""What `hb-run` has to make: new videos from prompts, or one that a file of latents begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hummingbird_edge.runtime.errors import OutputError, RequestError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.bundle.bundle import Bundle
    from hummingbird_edge.runtime.media.latents import LatentsFile
    from hummingbird_edge.runtime.request import Request

__all__ = ["Job", "job_to_decode", "job_to_resume", "new_jobs"]

DEFAULT_OUTPUT = Path("out.mp4")
_SETTINGS = ("frames", "width", "height", "steps", "guidance", "fps", "seed", "decoder")


@dataclass(frozen=True, slots=True)
class Job:
    """One video to be made."""

    prompt: str
    output: Path
    start: "LatentsFile | None" = None
    """Where it goes on from."""
    file: Path | None = None
    """What holds `start`."""
    is_decoding: bool = False
    """Whether only decoding is asked for."""

    def request(self, bundle: "Bundle", given: Mapping[str, Any]) -> "Request":
        """Return the request, with what the user gave; raises RequestError or OutputError."""
        from hummingbird_edge.runtime.request import Request

        if self.start is None:
            return Request.for_model(bundle.manifest, self.prompt, **given)
        settings = self.start.settings
        if settings.get("bundle_sha256") != bundle.digest:
            raise OutputError(
                f"{self.file} is of a video that another bundle was making, "
                f"{settings.get('model')}: give that one with --bundle"
            )
        known: dict[str, Any] = {name: settings.get(name) for name in _SETTINGS}
        known |= {name: value for name, value in given.items() if value is not None}
        request = Request.for_model(bundle.manifest, self.prompt, **known)
        self._check(request, bundle)
        return request

    def _check(self, request: "Request", bundle: "Bundle") -> None:
        assert self.start is not None
        taken, latents = self.start.taken, self.start.latents
        shape = request.latent_shape(bundle.manifest) if taken else (0,)
        if latents.shape != shape or taken > request.steps:
            raise OutputError(
                f"{self.file} holds latents of shape {latents.shape} after {taken} steps, its "
                f"video needs {shape} and {request.steps} steps at most: make it again"
            )
        if self.is_decoding and taken < request.steps:
            raise RequestError(
                f"{self.file} holds {taken} of {request.steps} steps: hb-run --resume "
                f"{self.file} takes the others first"
            )


def new_jobs(prompt: str | None, prompts: Path | None, output: Path | None) -> list[Job]:
    """Return each prompt with the path of its video; several get numbers. Raises RequestError."""
    if (prompt is None) == (prompts is None):
        raise RequestError('give one prompt, hb-run "a penguin in the snow", or --prompts FILE')
    output = DEFAULT_OUTPUT if output is None else output
    if prompts is None:
        assert prompt is not None
        return [Job(prompt, output)]
    from hummingbird_edge.runtime.prompts import read_prompts

    if not output.name:
        raise RequestError(f"--output is {str(output)!r}: name a file or a new folder")
    texts = read_prompts(prompts)
    return [
        Job(text, output.with_name(f"{output.stem}-{number:03d}{output.suffix}"))
        for number, text in enumerate(texts, start=1)
    ]


def job_to_resume(file: Path | None, output: Path | None) -> Job:
    """Return the job of an unfinished video: of `file`, or the last one. Raises OutputError."""
    from hummingbird_edge.runtime.media.unfinished import find_unfinished

    path, start = find_unfinished(file)
    before = start.origin.get("output")
    return _started(path, start, output or Path(str(before or DEFAULT_OUTPUT)))


def job_to_decode(file: Path, output: Path | None) -> Job:
    """Return the job of decoding the latents of `file`; raises OutputError."""
    from hummingbird_edge.runtime.media.latents import read_latents
    from hummingbird_edge.runtime.media.unfinished import without_foreign_origin

    start = without_foreign_origin(file, read_latents(file))
    return _started(file, start, output or DEFAULT_OUTPUT, is_decoding=True)


def _started(path: Path, start: "LatentsFile", output: Path, is_decoding: bool = False) -> Job:
    prompt = start.settings.get("prompt")
    if not isinstance(prompt, str) or not isinstance(start.settings.get("decoder"), str):
        raise OutputError(f"{path} does not say its prompt and decoder: give a file of hb-run's")
    return Job(prompt, output, start, path, is_decoding)
