"""The command `hb-run`: a prompt in, a video out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hummingbird_edge.runtime.command import Version, note, run_command
from hummingbird_edge.runtime.devices.providers import PROVIDERS
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.cli.jobs import Job

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What the video shows; with --resume, a file to go on with."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help=".mp4, .gif, .webp, or a folder for PNG frames; else out.mp4."
        ),
    ] = None,
    bundle: Annotated[
        str | None,  # a Path would lose the ./ of what is no owner/name
        typer.Option(help="Model bundle: a folder, or owner/name; else the built-in model."),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the video.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps, 1 to 50.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    fps: Annotated[
        int | None,
        typer.Option(help="Frames a second: 1 to 32, or more with --interpolate motion."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed makes the same video; 7 by default.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help=f"auto, {', '.join(PROVIDERS)}[:CPU|GPU|NPU]; or one name per stage, as in "
            "unet=dml,vae=cpu,text=cpu. With --enhance, where --upscaler runs; with --batch, "
            "a worker for each name that is joined by +."
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
    low_power: Annotated[
        bool,
        typer.Option(
            "--low-power", help="Fewer threads, and the devices with the fewest joules by --tune."
        ),
    ] = False,
    decoder: Annotated[
        str | None, typer.Option(help="full, or tiny where the bundle has a small decoder.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Write each step's picture as OUT-step-N.webp.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say which engine ran each stage, and why.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no promise and no progress.")
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt a line; outputs are numbered.")
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(help='A file of jobs, {"custom_id": ..., "body": {"prompt": ...}} a line.'),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="The folder of a batch's results.jsonl and videos.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Run the batch on this Ray cluster: HOST:PORT, auto, or local."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last video that was interrupted.")
    ] = False,
    list_unfinished: Annotated[
        bool, typer.Option("--list-unfinished", help="List what --resume can go on with.")
    ] = False,
    save_latents: Annotated[
        Path | None, typer.Option(help="Keep the video's latents in this file, for --decode.")
    ] = None,
    decode: Annotated[Path | None, typer.Option(help="Decode the latents of a file again.")] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Generate a quarter of the pixels at most, then enlarge these."
        ),
    ] = False,
    upscaler: Annotated[
        Path | None, typer.Option(help="Enlarge by this ONNX super-resolution model.")
    ] = None,
    interpolate: Annotated[
        str, typer.Option(help="none, or motion: more frames a second, 24 or --fps.")
    ] = "none",
    enhance: Annotated[
        Path | None, typer.Option(help="Enlarge a finished video, to twice its size or --size.")
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
    request = {
        "frames": frames,
        "steps": steps,
        "guidance": guidance,
        "fps": fps,
        "decoder": decoder,
        "seed": seed,
    }
    commands = {
        "--info": info,
        "--list-devices": list_devices,
        "--list-unfinished": list_unfinished,
        "--tune": tune,
        "--resume": resume,
        "--decode": decode,
        "--enhance": enhance,
        "--batch": batch,
    }
    if len(given := [name for name, value in commands.items() if value]) > 1:
        raise RequestError(f"{' and '.join(given)} are separate commands: give one of them")
    if bundle == "":
        raise RequestError("--bundle is empty: give a folder or owner/name, or leave it out")
    if info is not None or list_devices or list_unfinished:
        _print_known(info, list_devices, as_json)
        return
    from hummingbird_edge.runtime.cli.enhancing import Chosen, kept_enhancement, plan, restored
    from hummingbird_edge.runtime.request import parse_size

    chosen = Chosen(fast, upscaler, interpolate)
    request["width"], request["height"] = parse_size(size)
    if enhance is not None:
        from hummingbird_edge.runtime.cli.enhancing import enhance_file

        others = {"PROMPT": prompt, "--prompts": prompts, "--bundle": bundle, "--preview": preview}
        others |= {"--save-latents": save_latents, "--max-memory": max_memory, "--verify": verify}
        others |= {"--low-power": low_power, "--precision": precision != "auto"}
        enhance_file(enhance, output, request, chosen, device, others, as_json)
        return
    if batch is not None or output_dir is not None or ray is not None:
        others = {"PROMPT": prompt, "--prompts": prompts, "--output": output, "--preview": preview}
        others |= {"--save-latents": save_latents, "--verbose": verbose}
        others |= dict.fromkeys(chosen.names, True)
        files = _batch_files(batch, output_dir, [name for name, value in others.items() if value])
        from hummingbird_edge.runtime.cli.batch.command import Batch, run_batch
        from hummingbird_edge.runtime.placement.memory import parse_memory

        most = None if max_memory is None else parse_memory(max_memory)
        work = Batch(
            *files, ray, bundle, device, precision, most, low_power, verify, _filled(request)
        )
        run_batch(work, as_json, quiet)
        return
    jobs = _jobs(prompt, prompts, output, None if resume else decode, resume) if not tune else []
    if resume or decode is not None:
        _require_omitted(request, () if resume else ("decoder", "fps"))
        chosen.require_none("--resume" if resume else "--decode")
    if save_latents is not None and len(jobs) != 1:
        raise RequestError("--save-latents is for one video: give one prompt")
    origin = {"bundle": bundle or "", "device": device, "precision": precision}
    if jobs and jobs[0].start is not None:
        # What the video was begun with, where nothing else is named now.
        before, usual = jobs[0].start.origin, {"bundle": "", "device": "auto", "precision": "auto"}
        for name, default in usual.items():
            if origin[name] == default:
                origin[name] = str(before.get(name, default))
        low_power = low_power or before.get("low_power") is True
        if max_memory is None and (known := before.get("max_memory")) is not None:
            max_memory = str(known)
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN
    from hummingbird_edge.runtime.cli.making import Wanted, make_all
    from hummingbird_edge.runtime.pipeline import TextToVideo
    from hummingbird_edge.runtime.placement.memory import parse_memory

    pipeline = TextToVideo.from_bundle(
        origin["bundle"] or BUILTIN,
        device=origin["device"],
        precision=origin["precision"],
        max_memory=None if max_memory is None else parse_memory(max_memory),
        low_power=low_power,
        verify=verify,
        keep_loaded=len(jobs) > 1,
        notify=note,
    )
    request, enhancement = plan(chosen, request, pipeline.manifest)
    if jobs and (begun := jobs[0].start) is not None:
        enhancement = restored(begun.origin, begun.settings)
    if tune:
        from hummingbird_edge.runtime.cli.devices import tune_stages

        tune_stages(pipeline, _filled(request), as_json)
        return
    kept: dict[str, object] = {**origin, "max_memory": max_memory, "low_power": low_power}
    kept |= kept_enhancement(enhancement)
    wanted = Wanted(as_json, verbose, quiet, preview, save_latents, kept, enhancement)
    make_all(pipeline, jobs, request if jobs[0].start else _filled(request), wanted)


def _print_known(info: Path | None, list_devices: bool, as_json: bool) -> None:
    """Print what needs no bundle."""
    if info is not None:
        from hummingbird_edge.runtime.cli.info import print_info

        print_info(info, as_json)
    elif list_devices:
        from hummingbird_edge.runtime.cli.devices import print_devices

        print_devices(as_json)
    else:
        from hummingbird_edge.runtime.cli.info import print_unfinished

        print_unfinished(as_json)


def _jobs(
    prompt: str | None, prompts: Path | None, output: Path | None, decode: Path | None, resume: bool
) -> list["Job"]:
    from hummingbird_edge.runtime.cli.jobs import job_to_decode, job_to_resume, new_jobs

    if not resume and decode is None:
        return new_jobs(prompt, prompts, output)
    if prompts is not None or (decode is not None and prompt is not None):
        raise RequestError("the prompt is in the file of latents: leave prompts out")
    if decode is not None:
        return [job_to_decode(decode, output)]
    return [job_to_resume(None if prompt is None else Path(prompt), output)]


def _batch_files(
    batch: Path | None, output_dir: Path | None, others: list[str]
) -> tuple[Path, Path]:
    """Return the file of jobs and the folder; raises RequestError for options of others."""
    if batch is None or output_dir is None:
        given = {"--batch": batch, "--output-dir": output_dir}
        missing = [name for name, path in given.items() if path is None]
        raise RequestError(
            f"a batch is hb-run --batch JOBS.jsonl --output-dir DIR, with --ray ADDRESS on a "
            f"cluster: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    if others:
        raise RequestError(f"--batch takes no {others[0]}: the jobs say what each video is")
    return batch, output_dir


def _filled(request: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a new video with the command's own defaults."""
    own = {"seed": 7, "decoder": "full"}
    return {name: own.get(name) if value is None else value for name, value in request.items()}


def _require_omitted(request: dict[str, Any], allowed: tuple[str, ...]) -> None:
    """Raise RequestError where a setting was given that the file of latents fixes."""
    for name, value in request.items():
        if value is not None and name not in allowed:
            option = "size" if name in ("width", "height") else name
            raise RequestError(f"--{option} is fixed by the file of latents: leave it out")


def main() -> None:
    """Run the command; the entry point of `hb-run`."""
    run_command(app, "hb-run")
