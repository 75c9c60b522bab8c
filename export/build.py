"""Build a bundle from a checkpoint, or from random weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hummingbird_edge.export.architecture import preset_of, read_config
from hummingbird_edge.export.bundle_plan import BundlePlan
from hummingbird_edge.export.bundle_writer import write_bundle
from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.graph import OPSETS
from hummingbird_edge.export.lora import Adapter, MergedWeights
from hummingbird_edge.export.models.config import PRESETS, ModelConfig
from hummingbird_edge.export.weights import (
    CheckpointWeights,
    RandomWeights,
    Weights,
    WithTinyDecoder,
)
from hummingbird_edge.quantize.bundle_folder import require_free
from hummingbird_edge.quantize.precision import LAPTOP, graphs_for
from hummingbird_edge.runtime.bundle.manifest import require_prompts
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.files import read_json
from hummingbird_edge.runtime.prompts import read_prompts

__all__ = ["build_bundle"]

LICENCE = (
    "The weights carry the terms of whoever published them; AMD's model card and licence file "
    "state AMD's. This bundle adds no rights to them."
)
RANDOM_LICENCE = "Random weights, made by hummingbird-edge: no terms."


def build_bundle(
    source: str | Path | None,
    out: str | Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    storage: str | None = None,
    precision: str = LAPTOP,
    prompts: Sequence[str] | None = None,
    opset: int = 18,
    vae_encoder: bool = False,
    tiny_decoder: Path | None = None,
    lora: Path | None = None,
    tokenizer: Path | None = None,
    name: str | None = None,
    licence: str | None = None,
    revision: str | None = None,
    filename: str | None = None,
    seed: int = 0,
    notify: Callable[[str], None] = lambda _: None,
    force: bool = False,
) -> Path:
    """Build the bundle `out` from a checkpoint file, folder or Hub id; returns its folder.

    With `source` None the weights are random, drawn from `seed`, in the shape of `preset`
    (`hummingbird-0.7b`, `hummingbird-0.9b`, `videocrafter2`) or of `config`, a JSON file; else the
    shape is read off the checkpoint where neither is given. `precision` names the graphs, as for
    `quantize_bundle`: by default float16 for GPUs and int8 for CPUs, quickly calibrated on
    `prompts`. `storage` of float32 graphs is `float32` or `float16` (half the size, arithmetic
    still float32). The bundle carries what `prompts.txt` in the checkpoint's folder says that the
    model can be asked for. `tiny_decoder` is a TAESD decoder's file, `lora` an adapter's folder,
    which is merged into the U-Net, `tokenizer` a CLIP tokenizer's folder. `revision` and `filename`
    choose in a Hub repository. `notify` hears a line a stage; `force` replaces a bundle at `out`,
    which on any failure is as it was.
    Raises RequestError, CheckpointError or OutputError.
    """
    target, graphs = Path(out), graphs_for(precision)
    quantizes = graphs != graphs_for("fp32")
    if prompts is not None and not quantizes:
        raise RequestError("prompts are for a precision of int8 or fp16: leave them out")
    if storage is None:  # float32 weights that only calibration reads need no more than float16
        storage = "float32" if any("float32" in names for names in graphs.values()) else "float16"
    require_free(target, force)
    if opset not in OPSETS:
        raise RequestError(f"opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}")
    if storage not in ("float32", "float16"):
        raise RequestError(f"--storage is {storage!r}: choose float32 or float16")
    given, weights = _given_config(preset, config), RandomWeights(seed)
    examples: Sequence[str] = ()
    if source is None:
        if given is None:
            raise RequestError("--random-weights needs --preset or --config")
        made: Weights = weights
    else:
        given, made, preset = _from_checkpoint(source, given, preset, revision, filename)
        tokenizer = tokenizer or _tokenizer_beside(source)
        examples = _prompts_beside(source)
    if lora is not None:
        made = MergedWeights(made, Adapter.read(lora))
    if tiny_decoder is not None:
        made = WithTinyDecoder(made, read_checkpoint(tiny_decoder))
    fallback = preset or (Path(source).stem if source is not None else target.name)
    terms = RANDOM_LICENCE if source is None else LICENCE
    stages = ["text_encoder", "unet", "vae_decoder"]
    stages += ["vae_encoder"] if vae_encoder else []
    stages += ["tiny_decoder"] if tiny_decoder is not None else []
    terms = licence or terms
    plan = BundlePlan(name or fallback, given, stages, opset, storage, tokenizer, terms, examples)
    if not quantizes:
        write_bundle(plan, made, target, notify, force)
        return target
    return _built_and_quantized(plan, made, target, precision, prompts, notify, force)


def _built_and_quantized(
    plan: BundlePlan,
    weights: Weights,
    out: Path,
    precision: str,
    prompts: Sequence[str] | None,
    notify: Callable[[str], None],
    force: bool,
) -> Path:
    from hummingbird_edge.quantize.bundle import quantize_bundle

    with _scratch_folder(out) as scratch:
        built = scratch / "bundle"
        write_bundle(plan, weights, built, notify, force)
        return quantize_bundle(
            built,
            out,
            precision=precision,
            prompts=prompts,
            quick=True,
            notify=notify,
            force=force,
        )


def _from_checkpoint(
    source: str | Path,
    given: ModelConfig | None,
    preset: str | None,
    revision: str | None,
    filename: str | None,
) -> tuple[ModelConfig, Weights, str | None]:
    """Return the configuration, the weights, and the name of the published model, if it is one."""
    folder = Path(source)
    if folder.is_dir():
        given = given or _config_beside(folder)
    checkpoint = read_checkpoint(source, revision=revision, filename=filename)
    given = given or read_config(checkpoint)
    return given, CheckpointWeights(checkpoint), preset or preset_of(given)


def _tokenizer_beside(source: str | Path) -> Path | None:
    beside = Path(source) / "tokenizer"
    return beside if beside.is_dir() else None


def _prompts_beside(source: str | Path) -> Sequence[str]:
    """Return what a model's folder says that it can be asked for; raises RequestError."""
    path = Path(source) / "prompts.txt"
    if not path.is_file():
        return ()
    prompts = read_prompts(path)
    try:
        require_prompts(prompts)
    except ValueError as error:
        raise RequestError(
            f"{path} says what the model can be asked for, one prompt a line, but {error}: change "
            f"it, or move it elsewhere"
        ) from error
    return prompts


@contextmanager
def _scratch_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`, removed at the end; raises OutputError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.float32-")
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({error.strerror or error}): check the folder and its space"
        ) from error
    with scratch as folder:
        yield Path(folder)


def _given_config(preset: str | None, config: Path | None) -> ModelConfig | None:
    """Return the configuration that the user named, or None to read it off the checkpoint."""
    if preset is not None and config is not None:
        raise RequestError("--preset and --config exclude each other: give one")
    if preset is not None:
        if preset not in PRESETS:
            raise RequestError(f"there is no preset {preset!r}: choose from {', '.join(PRESETS)}")
        return PRESETS[preset]
    return None if config is None else _read_config_file(config)


def _config_beside(folder: Path) -> ModelConfig | None:
    """Return the configuration that hb-distill wrote into a model's folder, or None."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        entries = read_json(path)
    except (OSError, ValueError):
        return None  # of another program: the tensors tell
    known = isinstance(entries, dict) and "unet" in entries
    return ModelConfig.from_dict(entries) if known else None


def _read_config_file(config: Path) -> ModelConfig:
    try:
        entries = read_json(config)
    except (OSError, ValueError) as error:
        raise RequestError(f"the configuration {config} cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise RequestError(
            f"the configuration {config} is not a JSON object: see a manifest's provenance.config"
        )
    return ModelConfig.from_dict(entries)
