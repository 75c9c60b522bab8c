"""The command `hb-export`: build bundles, and look into them."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hummingbird_edge.runtime.command import Version, require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.bundle.manifest import Manifest

__all__ = ["main"]

LICENCE = (
    "The weights carry the terms of whoever published them; AMD's model card and licence file "
    "state AMD's. This bundle adds no rights to them."
)
RANDOM_LICENCE = "Random weights, made by hummingbird-edge: no terms."

_QUANTIZING = ("onnx", "onnx_ir", "skimage", "matplotlib")

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
    storage: Annotated[
        str, typer.Option(help="How weights are stored: float32, or float16 at half the size.")
    ] = "float32",
    precision: Annotated[
        str, typer.Option(help="Of the graphs; what hb-export quantize takes, with its defaults.")
    ] = "fp32",
    prompts: Annotated[
        Path | None, typer.Option(help="For --precision: prompts to calibrate on, one a line.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A CLIP tokenizer's folder, in place of CLIP's own.")
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
    from hummingbird_edge.export.bundle_folder import require_free
    from hummingbird_edge.export.bundle_writer import BundlePlan, write_bundle
    from hummingbird_edge.export.graph import OPSETS
    from hummingbird_edge.export.models.config import ModelConfig
    from hummingbird_edge.export.precision import graphs_for
    from hummingbird_edge.export.weights import CheckpointWeights, RandomWeights, Weights

    source, out = _source_and_out(paths, random_weights)
    graphs = graphs_for(precision)
    quantization = None
    if any(kinds != ("float32",) for kinds in graphs.values()):
        require_modules("quantize", *_QUANTIZING)
        from hummingbird_edge.export.quantized import QuantizationPlan, quantize_bundle
        from hummingbird_edge.quantize.calibration import PROMPTS
        from hummingbird_edge.runtime.prompts import read_prompts

        quantization = QuantizationPlan(graphs, read_prompts(prompts or PROMPTS))
    elif prompts is not None:
        raise RequestError("--prompts is for --precision with int8 or fp16: leave it out")
    require_free(out, force)
    if opset not in OPSETS:
        raise RequestError(f"opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}")
    if storage not in ("float32", "float16"):
        raise RequestError(f"--storage is {storage!r}: choose float32 or float16")
    given: ModelConfig | None = _given_config(preset, config)
    weights: Weights
    if source is None:
        if given is None:
            raise RequestError("--random-weights needs --preset or --config")
        weights = RandomWeights(seed)
    else:
        from hummingbird_edge.export.architecture import preset_of, read_config
        from hummingbird_edge.export.checkpoint import read_checkpoint

        if (folder := Path(source)).is_dir():
            given = given or _config_beside(folder)
            beside = folder / "tokenizer"
            tokenizer = tokenizer or (beside if beside.is_dir() else None)
        checkpoint = read_checkpoint(source, revision=revision, filename=filename)
        weights = CheckpointWeights(checkpoint)
        given = given or read_config(checkpoint)
        preset = preset or preset_of(given)
    if lora is not None:
        from hummingbird_edge.export.lora import Adapter, MergedWeights

        weights = MergedWeights(weights, Adapter.read(lora))
    if tiny_decoder is not None:
        from hummingbird_edge.export.checkpoint import read_checkpoint
        from hummingbird_edge.export.weights import WithTinyDecoder

        weights = WithTinyDecoder(weights, read_checkpoint(tiny_decoder))
    fallback = preset or (Path(source).stem if source is not None else out.name)
    terms = RANDOM_LICENCE if source is None else LICENCE
    stages = ["text_encoder", "unet", "vae_decoder", *(["vae_encoder"] if vae_encoder else [])]
    stages += ["tiny_decoder"] if tiny_decoder is not None else []
    plan = BundlePlan(name or fallback, given, stages, opset, storage, tokenizer, licence or terms)
    if quantization is None:
        write_bundle(plan, weights, out, typer.echo, force)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.float32-") as scratch:
            write_bundle(plan, weights, Path(scratch, "bundle"), typer.echo, force)
            quantize_bundle(Path(scratch, "bundle"), out, quantization, typer.echo, force)
    typer.echo(out)


def _source_and_out(paths: list[str], random_weights: bool) -> tuple[str | None, Path]:
    wanted = 1 if random_weights else 2
    if len(paths) != wanted:
        form = "--random-weights --preset NAME OUT" if random_weights else "SOURCE OUT"
        raise RequestError(f"{len(paths)} paths were given: write hb-export build {form}")
    return (None if random_weights else paths[0]), Path(paths[-1])


def _given_config(preset: str | None, config: Path | None) -> Any:
    """Return the configuration that the user named, or None to read it off the checkpoint."""
    from hummingbird_edge.export.models.config import PRESETS

    if preset is not None and config is not None:
        raise RequestError("--preset and --config exclude each other: give one")
    if preset is not None:
        if preset not in PRESETS:
            raise RequestError(f"there is no preset {preset!r}: choose from {', '.join(PRESETS)}")
        return PRESETS[preset]
    return None if config is None else _read_config_file(config)


def _config_beside(folder: Path) -> Any:
    """Return the configuration that hb-distill wrote into a model's folder, or None."""
    path = folder / "config.json"
    if not path.is_file() or '"unet"' not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    return _read_config_file(path)


def _read_config_file(config: Path) -> Any:
    from hummingbird_edge.export.models.config import ModelConfig

    try:
        entries = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"the configuration {config} cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise RequestError(f"the configuration {config} is not a JSON object: see the README")
    return ModelConfig.from_dict(entries)


@app.command(name="quantize")
def quantize_(
    bundle: Annotated[Path, typer.Argument(help="A bundle in float32, as hb-export build makes.")],
    out: Annotated[Path, typer.Argument(help="The new bundle's folder.")],
    precision: Annotated[
        str,
        typer.Option(
            help="int8, fp32+int8 for both beside each other, or a stage's: unet=int8,vae=fp32."
        ),
    ] = "int8",
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file, a prompt a line: the first ones calibrate, others judge."),
    ] = None,
    calibration: Annotated[int, typer.Option(help="Trajectories to calibrate on.")] = 4,
    held_out: Annotated[
        int, typer.Option(help="Videos to compare with float32; 0 for none, and no search.")
    ] = 4,
    min_psnr: Annotated[
        float, typer.Option(help="Of these videos, in dB: layers stay in float32 until it is met.")
    ] = 36.0,
    frames: Annotated[int | None, typer.Option(help="Of the videos calibrated on.")] = None,
    size: Annotated[str | None, typer.Option(help="Of these videos, as 512x320.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first trajectory's noise.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle at OUT.")] = False,
) -> None:
    """Write a bundle in smaller numbers: calibrate, measure every layer, keep what is sensitive."""
    require_modules("quantize", *_QUANTIZING)
    from hummingbird_edge.export.precision import graphs_for
    from hummingbird_edge.export.quantized import QuantizationPlan, quantize_bundle
    from hummingbird_edge.quantize.calibration import PROMPTS
    from hummingbird_edge.runtime.prompts import read_prompts
    from hummingbird_edge.runtime.request import parse_size

    width, height = parse_size(size)
    plan = QuantizationPlan(
        graphs_for(precision),
        read_prompts(prompts or PROMPTS),
        calibration,
        held_out,
        min_psnr,
        {"frames": frames, "width": width, "height": height},
        seed,
    )
    quantize_bundle(bundle, out, plan, typer.echo, force)
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
    typer.echo(f"{manifest.name}: {opened.bytes / 1e6:.1f} MB, every file has its digest")
    for stage, entry in manifest.stages.items():
        typer.echo(f"  {stage}: {entry.get('parameters')} parameters, {_graphs(manifest, stage)}")
    model, sampler, defaults = manifest.model, manifest.sampler, manifest.defaults
    typer.echo(
        f"  sizes divide by {model.size_divisor}; predicts {sampler.prediction_type}; default "
        f"{defaults.frames} frames of {defaults.width}x{defaults.height} in {defaults.steps} steps"
    )
    typer.echo(f"  from {manifest.provenance.get('source')}")
    typer.echo(f"  {manifest.licence}")


def _graphs(manifest: "Manifest", stage: str) -> str:
    """Say which graphs a stage has, and how near they are to what they were made from."""
    entry, psnr = manifest.stages[stage], manifest.psnr_db(stage)
    agreement = entry.get("agreement_with_pytorch", {}).get("largest_difference")
    near = {"float32": f", within {agreement} of PyTorch"}
    if math.isfinite(psnr):
        near["int8"] = f", frames {psnr:.1f} dB from float32"
    first = {variant.get("precision"): variant for variant in reversed(entry["variants"])}
    return "; ".join(
        f"{name} stored as {first[name].get('storage')}, opset {first[name].get('opset')}"
        f"{near.get(name, '')}"
        for name in manifest.precisions(stage)
    )


def main() -> None:
    """Run the command; the entry point of `hb-export`."""
    run_command(app, "hb-export")
