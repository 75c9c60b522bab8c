"""The command `hb-run`: a prompt in, a video out."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hummingbird_edge.runtime.command import Version, run_command
from hummingbird_edge.runtime.devices.providers import PROVIDERS
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.pipeline import TextToVideo
    from hummingbird_edge.runtime.request import Request
    from hummingbird_edge.runtime.result import Progress, Video

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help=".mp4, .gif, .webp, or a folder for PNG frames.")
    ] = Path("out.mp4"),
    bundle: Annotated[
        Path | None,
        typer.Option(help="Model bundle: a folder, or owner/name; else the built-in model."),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the video.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps, 1 to 50.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same video.")] = 7,
    device: Annotated[
        str,
        typer.Option(
            help=f"auto, {', '.join(PROVIDERS)}[:CPU|GPU|NPU]; or one name per stage, as in "
            "unet=dml,vae=cpu,text=cpu."
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="auto, fp32, bf16, fp16, int8, as the bundle has; or one per stage."),
    ] = "auto",
    max_memory: Annotated[
        str | None,
        typer.Option(help="Most memory to take, such as 4GB: plans for it, or refuses."),
    ] = None,
    decoder: Annotated[
        str, typer.Option(help="full, or tiny where the bundle has a small decoder.")
    ] = "full",
    preview: Annotated[
        bool, typer.Option("--preview", help="Write each step's picture as OUT-step-N.webp.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say which engine ran each stage, and why.")
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt a line; outputs are numbered.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare every file with its digest.")] = False,
    info: Annotated[
        Path | None, typer.Option(help="Print how a video was made, and how to make it again.")
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Try out every device and say what works.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure devices and precisions at this size for auto.")
    ] = False,
    version: Version = False,
) -> None:
    """Make a video from a prompt.

    Progress goes to stderr; stdout has the path of the video and a line of timings.
    Omitted settings are the bundle's own defaults.
    """
    if info is not None:
        _print_info(info, as_json)
        return
    if list_devices and tune:
        raise RequestError("--list-devices and --tune are two commands: give one of them")
    if list_devices:
        _print_devices(as_json)
        return
    jobs = [] if tune else _jobs(prompt, prompts, output)
    from hummingbird_edge.runtime.request import parse_size

    width, height = parse_size(size)
    asked = {
        "frames": frames,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "fps": fps,
        "decoder": decoder,
        "seed": seed,
    }
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN
    from hummingbird_edge.runtime.pipeline import TextToVideo
    from hummingbird_edge.runtime.placement.memory import parse_memory

    cap = None if max_memory is None else parse_memory(max_memory)
    pipeline = TextToVideo.from_bundle(
        bundle or BUILTIN,
        device=device,
        precision=precision,
        max_memory=cap,
        verify=verify,
        notify=_note,
    )
    if tune:
        _tune(pipeline, asked, as_json)
        return
    _make_all(pipeline, jobs, asked, _Show(as_json, verbose, preview))


def _jobs(prompt: str | None, prompts: Path | None, output: Path) -> list[tuple[str, Path]]:
    """Return each prompt with the path of its video; several get numbers."""
    if (prompt is None) == (prompts is None):
        raise RequestError('give one prompt, hb-run "a red circle moving right", or --prompts FILE')
    if prompts is None:
        assert prompt is not None
        return [(prompt, output)]
    from hummingbird_edge.runtime.prompts import read_prompts

    if not output.name:
        raise RequestError(f"--output is {str(output)!r}: name a file or a new folder")
    texts = read_prompts(prompts)
    return [
        (text, output.with_name(f"{output.stem}-{number:03d}{output.suffix}"))
        for number, text in enumerate(texts, start=1)
    ]


def _make_all(
    pipeline: "TextToVideo",
    jobs: list[tuple[str, Path]],
    asked: dict[str, Any],
    show: "_Show",
) -> None:
    from hummingbird_edge.runtime.decoder import require_preview
    from hummingbird_edge.runtime.media.video import check_output
    from hummingbird_edge.runtime.request import Request

    manifest = pipeline.bundle.manifest
    requests = [Request.for_model(manifest, prompt, **asked) for prompt, _ in jobs]
    for _, path in jobs:
        check_output(path)
    if show.preview:
        require_preview(manifest)
    for request, (_, path) in zip(requests, jobs, strict=True):
        video = _generate(pipeline, request, path if show.preview else None)
        if show.verbose:
            for stage, placement in pipeline.placements.items():
                _say(f"{stage}: {placement}")
        video.save(path)
        _print_result(pipeline, video, path, show.as_json)


@dataclass(frozen=True, slots=True)
class _Show:
    """What the user wants to see in addition to the video."""

    as_json: bool
    verbose: bool
    preview: bool


def _generate(pipeline: "TextToVideo", request: "Request", preview: Path | None) -> "Video":
    """Make one video, showing progress on stderr: in place on a terminal, else a line a stage.

    With `preview`, the video's path, each step's picture is written next to it.
    """
    in_place = sys.stderr.isatty()
    for progress in pipeline.generate(request):
        if progress.video is not None:
            if in_place:
                print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
            return progress.video
        device = pipeline.devices[progress.stage]
        text = f"{progress.stage} {progress.index}/{progress.count} on {device}"
        if in_place:
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)
        elif progress.index == progress.count:
            _say(text)
        if preview is not None and progress.denoised is not None:
            _write_preview(pipeline, progress, request, preview)
    raise AssertionError("the generator ends with a video")


def _write_preview(
    pipeline: "TextToVideo", progress: "Progress", request: "Request", path: Path
) -> None:
    from hummingbird_edge.runtime.media.video import write_video

    assert progress.denoised is not None
    frames = pipeline.preview(progress.denoised)
    target = path.with_name(f"{path.stem}-step-{progress.index}.webp")
    settings = {**request.settings(), "preview_of_step": progress.index}
    write_video(target, frames, request.fps, settings)
    _say(f"preview: {target}")


def _print_result(pipeline: "TextToVideo", video: "Video", path: Path, as_json: bool) -> None:
    if not as_json:
        print(path)
        print(video.timings)
        return
    entries = {
        "path": str(path),
        "settings": video.settings,
        "stages": {name: found.as_dict() for name, found in pipeline.placements.items()},
        "timings": video.timings.as_dict(),
    }
    print(json.dumps(entries))


def _tune(pipeline: "TextToVideo", asked: dict[str, Any], as_json: bool) -> None:
    from hummingbird_edge.runtime.placement.notices import Notices
    from hummingbird_edge.runtime.placement.tuning import Measurement, tune
    from hummingbird_edge.runtime.request import Request

    def report(measured: Measurement) -> None:
        time = measured.failure or f"{measured.median_s:.3f} s, {measured.snr_db:.0f} dB"
        _say(f"{measured.placement.stage} on {measured.placement.backend}: {time}")

    manifest = pipeline.bundle.manifest
    sizes = Request.for_model(manifest, "", **asked).stage_sizes(manifest)
    max_memory = pipeline.stages.planner.max_memory
    best = tune(pipeline.bundle, sizes, report, Notices(_note, _note), max_memory)
    if as_json:
        print(json.dumps({stage: measured.as_dict() for stage, measured in best.items()}))
        return
    for stage, measured in best.items():
        print(f"{stage}: {measured.placement.backend}, {measured.median_s:.3f} s")


def _print_devices(as_json: bool) -> None:
    from dataclasses import asdict

    from hummingbird_edge.runtime.placement.probe import probe_all

    verdicts = probe_all()
    if as_json:
        print(json.dumps([asdict(verdict) for verdict in verdicts]))
        return
    for verdict in verdicts:
        state = "works" if verdict.works else "fails" if verdict.installed else "not installed"
        print(f"{verdict.device:<12} {state:<14} {verdict.reason}")


def _print_info(path: Path, as_json: bool) -> None:
    from hummingbird_edge.runtime.media.video import read_settings

    settings = read_settings(path)
    if as_json:
        print(json.dumps(settings))
        return
    for name, value in settings.items():
        print(_printable(f"{name}: {json.dumps(value, ensure_ascii=False)}"))
    print(_printable(f"again: {_command(settings)}"))


def _printable(text: str) -> str:
    """Replace control characters: a file from elsewhere must not command the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _command(settings: dict[str, object]) -> str:
    """Return the command that makes a video with these settings again."""
    import os
    import shlex
    import subprocess

    from hummingbird_edge.runtime.bundle.bundle import BUILTIN
    from hummingbird_edge.runtime.bundle.manifest import MANIFEST
    from hummingbird_edge.runtime.errors import OutputError
    from hummingbird_edge.runtime.files import sha256_of

    try:
        parts = ["hb-run", "--size", f"{settings['width']}x{settings['height']}"]
        for name in ("frames", "steps", "guidance", "fps", "seed"):
            parts += [f"--{name}", str(settings[name])]
        if settings.get("decoder", "full") != "full":
            parts += ["--decoder", str(settings["decoder"])]
        prompt = str(settings["prompt"])
    except KeyError as error:
        raise OutputError(
            f"the file does not say its {error.args[0]}: it was made otherwise"
        ) from None
    for option, key in (("--device", "devices"), ("--precision", "precisions")):
        if recorded := _by_stage(settings.get(key)):
            parts += [option, recorded]
    if settings.get("noise") == "given":
        return "not with a command: the noise was given, not drawn from the seed"
    manifest = BUILTIN / MANIFEST
    if not manifest.is_file() or settings.get("bundle_sha256") != sha256_of(manifest):
        parts += ["--bundle", f"PATH_TO_{settings.get('model')}"]
    parts += ["--", prompt]
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)


def _by_stage(recorded: object) -> str | None:
    """Return what `--device` or `--precision` takes for a file's record: one name or one each."""
    from hummingbird_edge.runtime.devices.backend import STAGE_NAMES

    if not isinstance(recorded, dict):
        return None  # an old file
    # Whichever decoder ran is the user's `vae`.
    short = {stage: name for name, stage in STAGE_NAMES.items()} | {"tiny_decoder": "vae"}
    found = {short[stage]: str(name) for stage, name in recorded.items() if stage in short}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ",".join(f"{stage}={name}" for stage, name in found.items())


def _note(text: str) -> None:
    _say(f"note: {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command; the entry point of `hb-run`."""
    run_command(app, "hb-run")
