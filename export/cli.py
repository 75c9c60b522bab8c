"""The command `hb-export`: build bundles, and look into them."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.runtime.command import Version, printable, require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.bundle.manifest import Manifest

__all__ = ["build_precision", "main"]

_QUANTIZING = ("onnx", "onnx_ir", "skimage", "matplotlib")
_TARGETS = {"gpu": "fp16", "cpu": "int8", "all": "fp32+fp16+int8"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def bundles(version: Version = False) -> None:
    """Build bundles of ONNX graphs, quantize them, and look into them."""


@app.command()
def build(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] OUT",
            help="A checkpoint file or a Hub id, then the new bundle's folder.",
        ),
    ],
    preset: Annotated[
        str | None, typer.Option(help="hummingbird-0.7b, hummingbird-0.9b or videocrafter2.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A JSON file with the model's configuration.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="No SOURCE: random weights, for benchmarks.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of --random-weights.")] = 0,
    vae_encoder: Annotated[
        bool, typer.Option("--vae-encoder", help="Export the VAE's encoder too.")
    ] = False,
    opset: Annotated[int, typer.Option(help="ONNX opset, 18 to 21.")] = 18,
    target: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="gpu: float16 graphs, cpu: int8, all: both and float32; else float16 and int8.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Instead of --for: precisions as hb-export quantize takes them, or fp32."
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Of float32 graphs: float32, or float16 at half the size.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="To calibrate int8 on, one a line; else the model's own."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A CLIP tokenizer's folder, instead of CLIP's own.")
    ] = None,
    lora: Annotated[
        Path | None, typer.Option(help="A LoRA adapter's folder, merged into the U-Net.")
    ] = None,
    tiny_decoder: Annotated[
        Path | None, typer.Option(help="A TAESD decoder's file, for hb-run --decoder tiny.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the manifest.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="The weights' terms, in the manifest's words.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub repository.")] = None,
    filename: Annotated[
        str | None, typer.Option(help="Which file of a folder or of a Hub repository.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle at OUT.")] = False,
) -> None:
    """Turn a checkpoint into a bundle that hb-run can use."""
    require_modules("export", "torch", "onnx", "onnxscript")
    source, out = _source_and_out(paths, random_weights)
    precision = build_precision(target, precision)
    if precision != "fp32":
        require_modules("export", *_QUANTIZING)
    from hummingbird_edge.export import build_bundle
    from hummingbird_edge.runtime.prompts import read_prompts

    build_bundle(
        source,
        out,
        preset=preset,
        config=config,
        storage=storage,
        precision=precision,
        prompts=None if prompts is None else read_prompts(prompts),
        opset=opset,
        vae_encoder=vae_encoder,
        tiny_decoder=tiny_decoder,
        lora=lora,
        tokenizer=tokenizer,
        name=name,
        licence=licence,
        revision=revision,
        filename=filename,
        seed=seed,
        notify=typer.echo,
        force=force,
    )
    typer.echo(out)


def _source_and_out(paths: list[str], random_weights: bool) -> tuple[str | None, Path]:
    wanted = 1 if random_weights else 2
    if len(paths) != wanted:
        form = "--random-weights --preset NAME OUT" if random_weights else "SOURCE OUT"
        raise RequestError(f"{len(paths)} paths were given: write hb-export build {form}")
    return (None if random_weights else paths[0]), Path(paths[-1])


def build_precision(target: str | None, precision: str | None) -> str:
    """Return the precisions of a new bundle's graphs, as `build_bundle` takes them.

    `target` is the value of `--for`. Raises RequestError.
    """
    from hummingbird_edge.quantize.precision import LAPTOP

    if target is not None and precision is not None:
        raise RequestError("--for and --precision exclude each other: give one")
    if target is not None and target not in _TARGETS:
        raise RequestError(f"--for is {target!r}: choose from {', '.join(_TARGETS)}")
    return precision or (LAPTOP if target is None else _TARGETS[target])


@app.command(name="quantize")
def quantize_(
    bundle: Annotated[Path, typer.Argument(help="A bundle in float32, as hb-export build makes.")],
    out: Annotated[Path, typer.Argument(help="The new bundle's folder.")],
    precision: Annotated[
        str,
        typer.Option(help="int8, fp32+int8 for both, or a stage's: unet=int8,vae=fp32."),
    ] = "int8",
    prompts: Annotated[
        Path | None,
        typer.Option(help="One a line: the first calibrate, others judge; else the bundle's own."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="4 frames, 1 held-out video, no search: as hb-export build does."
        ),
    ] = False,
    calibration: Annotated[int, typer.Option(help="Trajectories to calibrate on.")] = 4,
    held_out: Annotated[
        int | None,
        typer.Option(
            help="Videos to compare with float32; 4, or 1 with --quick. 0: none, and no search."
        ),
    ] = None,
    min_psnr: Annotated[
        float, typer.Option(help="Of these videos, in dB: layers stay in float32 until it is met.")
    ] = 36.0,
    frames: Annotated[int | None, typer.Option(help="Of the videos calibrated on.")] = None,
    size: Annotated[str | None, typer.Option(help="Of these videos, as 512x320.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first trajectory's noise.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle at OUT.")] = False,
) -> None:
    """Quantize a bundle: calibrate, measure every layer, keep what is sensitive in float32."""
    require_modules("quantize", *_QUANTIZING)
    from hummingbird_edge.quantize import quantize_bundle
    from hummingbird_edge.runtime.prompts import read_prompts
    from hummingbird_edge.runtime.request import parse_size

    width, height = parse_size(size)
    quantize_bundle(
        bundle,
        out,
        precision=precision,
        prompts=None if prompts is None else read_prompts(prompts),
        quick=quick,
        calibration=calibration,
        held_out=held_out,
        min_psnr=min_psnr,
        frames=frames,
        width=width,
        height=height,
        seed=seed,
        notify=typer.echo,
        force=force,
    )
    typer.echo(out)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Print what is in a bundle, and verify every file of it."""
    from hummingbird_edge.runtime.bundle.bundle import Bundle
    from hummingbird_edge.runtime.bundle.manifest import MANIFEST

    opened = Bundle.open(bundle, verify=True)
    if as_json:
        print(json.dumps(json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))))
        return
    manifest = opened.manifest
    model, sampler, defaults = manifest.model, manifest.sampler, manifest.defaults
    lines = [
        f"{manifest.name}: {opened.bytes / 1e6:.1f} MB, every file has its digest",
        *(
            f"  {stage}: {entry.parameters} parameters, {_graphs(manifest, stage)}"
            for stage, entry in manifest.stages.items()
        ),
        f"  sizes divide by {model.size_divisor}; predicts {sampler.prediction_type}; default "
        f"{defaults.frames} frames of {defaults.width}x{defaults.height} in {defaults.steps} steps",
        f"  from {manifest.provenance.source}",
        f"  {manifest.licence}",
        *(f"  can be asked for {prompt!r}" for prompt in manifest.prompts[:2]),
    ]
    for line in lines:
        typer.echo(printable(line))


def _graphs(manifest: "Manifest", stage: str) -> str:
    """Say which graphs a stage has, and how near they are to what they were made from."""
    entry = manifest.stage(stage)
    near = dict[str, str]()
    if entry.agreement_with_pytorch is not None:
        largest = entry.agreement_with_pytorch.largest_difference
        near["float32"] = f", within {largest} of PyTorch"
    if math.isfinite(entry.psnr_db):
        near["int8"] = f", frames {entry.psnr_db:.1f} dB from float32"
    first = {variant.precision: variant for variant in reversed(entry.variants)}
    return "; ".join(
        f"{name} stored as {first[name].storage}, opset {first[name].opset}{near.get(name, '')}"
        for name in entry.precisions
    )


def main() -> None:
    """Run the command; the entry point of `hb-export`."""
    run_command(app, "hb-export")
