"""The command `hb-run`: a prompt in, a video out."""

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hummingbird_edge.runtime.command import run_command
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.request import Request
    from hummingbird_edge.runtime.result import Video
    from hummingbird_edge.runtime.text_to_video import TextToVideo

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help=".mp4, .gif, .webp, or a folder for PNG frames.")
    ] = Path("out.mp4"),
    bundle: Annotated[
        Path | None, typer.Option(help="Model bundle; without it, the built-in model.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the video.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps, 1 to 50.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same video.")] = 7,
    device: Annotated[
        str, typer.Option(help="auto, cpu, dml, migraphx, rocm, webgpu, openvino[:DEVICE].")
    ] = "auto",
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt a line; outputs are numbered.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare every file with its digest.")] = False,
    info: Annotated[
        Path | None, typer.Option(help="Print how a video was made, and how to make it again.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make a video from a prompt.

    Progress goes to stderr; stdout has the path of the video and a line of timings.
    Omitted settings are the bundle's own defaults.
    """
    if version:
        from importlib.metadata import version as version_of

        print(version_of("hummingbird-edge"))
        return
    if info is not None:
        _print_info(info, as_json)
        return
    jobs = _jobs(prompt, prompts, output)
    width, height = parse_size(size)
    asked = {
        "frames": frames,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "fps": fps,
    }
    _make_all(jobs, bundle, device, verify, seed, asked, as_json)


def _jobs(prompt: str | None, prompts: Path | None, output: Path) -> list[tuple[str, Path]]:
    """Return each prompt with the path of its video; several get numbers."""
    if (prompt is None) == (prompts is None):
        raise RequestError('give one prompt, hb-run "a red circle moving right", or --prompts FILE')
    if prompts is None:
        assert prompt is not None
        return [(prompt, output)]
    if not output.name:
        raise RequestError(f"--output is {str(output)!r}: name a file or a new folder")
    try:
        lines = prompts.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the prompts in {prompts} cannot be read: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise RequestError(f"{prompts} holds no prompt: write one a line")
    return [
        (text, output.with_name(f"{output.stem}-{number:03d}{output.suffix}"))
        for number, text in enumerate(texts, start=1)
    ]


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    width, _, height = size.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise RequestError(f"--size is {size!r}: write WIDTHxHEIGHT, such as 512x320")
    return int(width), int(height)


def _make_all(
    jobs: list[tuple[str, Path]],
    bundle: Path | None,
    device: str,
    verify: bool,
    seed: int,
    asked: dict[str, Any],
    as_json: bool,
) -> None:
    from hummingbird_edge.runtime.bundle import BUILTIN
    from hummingbird_edge.runtime.request import Request
    from hummingbird_edge.runtime.text_to_video import TextToVideo
    from hummingbird_edge.runtime.video import check_output

    pipeline = TextToVideo.from_bundle(bundle or BUILTIN, device, verify)
    requests = [
        Request.for_model(pipeline.bundle.manifest, prompt, seed, **asked) for prompt, _ in jobs
    ]
    for _, path in jobs:
        check_output(path)
    for request, (prompt, path) in zip(requests, jobs, strict=True):
        _warn_if_cut(pipeline, prompt)
        video = _generate(pipeline, request)
        for reason in dict.fromkeys(itertools.chain(*pipeline.refusals.values())):
            _say(f"note: {reason}")
        video.save(path)
        _print_result(video, path, as_json)


def _warn_if_cut(pipeline: "TextToVideo", prompt: str) -> None:
    tokens = pipeline.tokens(prompt)
    if tokens.truncated:
        _say(
            f"note: the prompt has {tokens.count} tokens, the model reads {len(tokens.ids)}: "
            f"the rest is cut"
        )


def _generate(pipeline: "TextToVideo", request: "Request") -> "Video":
    """Make one video, showing progress on stderr: in place on a terminal, else a line a stage."""
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
    raise AssertionError("the generator ends with a video")


def _print_result(video: "Video", path: Path, as_json: bool) -> None:
    timings = video.timings
    if not as_json:
        print(path)
        print(timings)
        return
    entries = {
        "path": str(path),
        "settings": video.settings,
        "timings": {
            "load_s": timings.load_s,
            "text_encoder_s": timings.text_encoder_s,
            "unet_step_s": timings.unet_step_s,
            "vae_decoder_s": timings.vae_decoder_s,
            "total_s": timings.total_s,
        },
    }
    print(json.dumps(entries))


def _print_info(path: Path, as_json: bool) -> None:
    from hummingbird_edge.runtime.video import read_settings

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

    from hummingbird_edge.runtime.bundle import BUILTIN, sha256_of
    from hummingbird_edge.runtime.errors import OutputError
    from hummingbird_edge.runtime.manifest import MANIFEST

    try:
        parts = ["hb-run", "--size", f"{settings['width']}x{settings['height']}"]
        for name in ("frames", "steps", "guidance", "fps", "seed"):
            parts += [f"--{name}", str(settings[name])]
        prompt = str(settings["prompt"])
    except KeyError as error:
        raise OutputError(
            f"the file does not say its {error.args[0]}: it was made otherwise"
        ) from None
    if settings.get("noise") == "given":
        return "not with a command: the noise was given, not drawn from the seed"
    manifest = BUILTIN / MANIFEST
    if not manifest.is_file() or settings.get("bundle_sha256") != sha256_of(manifest):
        parts += ["--bundle", f"PATH_TO_{settings.get('model')}"]
    parts += ["--", prompt]
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command; the entry point of `hb-run`."""
    run_command(app, "hb-run")
