"""Build a bundle: graphs, tokenizer and manifest, made beside the target and renamed."""

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hummingbird_edge.export.agreement import Agreement, compare, reference_outputs
from hummingbird_edge.export.flops import count_flops
from hummingbird_edge.export.graph import export_graph, release_weights, save_graph
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.export.preview import latent_to_rgb
from hummingbird_edge.export.stage import STAGES, Stage, count_kernels, live_values
from hummingbird_edge.export.tiled import TiledGraphs, save_tiled
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.export.weights import Weights
from hummingbird_edge.kernels.variant import VARIANTS, Variant, save_variant
from hummingbird_edge.quantize.bundle_folder import GRAPH, files_of, new_bundle, require_free
from hummingbird_edge.quantize.storage import round_to_float16, store_as_float16
from hummingbird_edge.runtime.bundle.manifest import FORMAT, FORMAT_VERSION, MANIFEST, Manifest
from hummingbird_edge.runtime.devices.resident import return_freed
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import write_json
from hummingbird_edge.runtime.tokenizer import WORDS, Tokenizer

__all__ = ["BundlePlan", "write_bundle"]

DIFFUSERS_CLASSES = {
    "text_encoder": ["diffusers", "OnnxRuntimeModel"],
    "unet": ["diffusers", "OnnxRuntimeModel"],
    "vae_decoder": ["diffusers", "OnnxRuntimeModel"],
    "vae_encoder": ["diffusers", "OnnxRuntimeModel"],
    "tiny_decoder": ["diffusers", "OnnxRuntimeModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
SCHEDULERS = {"lcm": "LCMScheduler", "ddim": "DDIMScheduler"}


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """What is to be built."""

    name: str
    config: ModelConfig
    stages: Sequence[str]
    """Names of stages, in the order of `STAGES`."""
    opset: int
    storage: str
    """How weights are stored, `float32` or `float16`; the arithmetic is float32 either way."""
    tokenizer: Path | None
    """A folder with the tokenizer's files; None for CLIP's own."""
    licence: str


def write_bundle(
    plan: BundlePlan, weights: Weights, out: Path, report: Callable[[str], None], force: bool
) -> None:
    """Build the bundle `out`; `report` hears one line a stage.

    Each network is loaded, exported, compared with PyTorch and freed before the next. Raises
    RequestError, CheckpointError or OutputError; `out` then is as it was.
    """
    if plan.tokenizer is None and plan.config.text.vocab_size != len(Vocabulary.clip().tokens):
        raise RequestError(
            f"the text encoder knows {plan.config.text.vocab_size} tokens, CLIP's vocabulary has "
            f"{len(Vocabulary.clip().tokens)}: give the model's own with --tokenizer"
        )
    require_free(out, force)
    with new_bundle(out) as folder:
        _write_tokenizer(plan, folder)
        _write_scheduler(plan, folder)
        stages: dict[str, Any] = {}
        for name in plan.stages:
            stages |= _write_stage(plan, STAGES[name], weights, folder, report)
        write_json(folder / "model_index.json", _model_index(plan))
        write_json(folder / MANIFEST, _manifest(plan, weights, stages, folder))
        # What the runtime would refuse must not take the target's place.
        Manifest.read(folder)


def _write_stage(
    plan: BundlePlan, stage: Stage, weights: Weights, folder: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Export one stage; returns its entries in the manifest, by their names."""
    started = time.monotonic()
    network = weights.load(stage.network, plan.config)
    module = stage.module(network, plan.config).eval()
    parameters = sum(p.numel() for p in module.parameters())
    rounding = round_to_float16(module) if plan.storage == "float16" else 0.0
    # The published form's outputs, before the export swaps layers for their forms in graphs.
    expected = reference_outputs(module, stage, plan.config)
    kernels, metadata = count_kernels(network, stage.name), {}
    vae = network if isinstance(network, VAE) and stage.name == "vae_decoder" else None
    if vae is not None:
        metadata["latent_to_rgb"] = latent_to_rgb(vae).tolist()
    # Odd sizes keep the tracer from taking one axis for another.
    down = plan.config.unet.downsampling if stage.name == "unet" else 2
    model = export_graph(
        module, stage, stage.inputs(plan.config, 3, 3 * down, 5 * down, 0), plan.opset
    )
    if plan.storage == "float16":
        store_as_float16(model)
    save_graph(model, folder / stage.name)
    # The export swapped layers for their forms in graphs, of which one has larger weights.
    held = sum(p.numel() for p in module.parameters())
    if vae is None:  # whose halves are exported too
        release_weights(model, network)
    del model, module, network
    agreement = compare(expected, stage, plan.config, folder / stage.name / GRAPH)
    variants = VARIANTS if kernels["attentions"] else ()
    for variant in variants:
        save_variant(folder / stage.name, variant, kernels)
        if "cpu" in variant.devices:
            compare(expected, stage, plan.config, folder / stage.name / variant.file)
    return_freed()  # of these sessions
    entry = {**_stage_entry(plan, stage, held, rounding, agreement, variants), **metadata}
    entries = {stage.name: entry}
    if vae is not None:
        tiled = save_tiled(
            vae, plan.config, expected, plan.opset, plan.storage, folder / stage.name
        )
        entries |= _tiled_entries(plan, entry, tiled)
    seconds = time.monotonic() - started
    report(f"{stage.name}: {parameters:,} parameters, {agreement}, {seconds:.0f} s")
    return entries


def _tiled_entries(plan: BundlePlan, whole: dict[str, Any], tiled: TiledGraphs) -> dict[str, Any]:
    """Return the entries of the two halves of a tiled decoder, which are like those of `whole`."""
    portable = whole["variants"][0]

    def entry(name: str, parameters: int, files: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        variants = [
            {**portable, "graph": f"vae_decoder/{file}"}
            | ({"devices": list(devices)} if devices else {})
            for file, devices in files.items()
        ]
        return {
            "kind": name.removeprefix("vae_"),
            "parameters": parameters,
            "live_values": live_values(plan.config, name),
            "agreement_with_pytorch": asdict(tiled.agreement),
            "largest_rounding_of_a_weight": whole["largest_rounding_of_a_weight"],
            "variants": variants,
        }

    head, tail = "vae_decoder_head", "vae_decoder_tail"
    metadata = {"scale": tiled.scale, "layers": tiled.layers, "groups": tiled.groups}
    return {
        head: entry(head, tiled.head_parameters, tiled.head),
        tail: {**entry(tail, tiled.tail_parameters, {tiled.tail: ()}), "tiled": metadata},
    }


def _stage_entry(
    plan: BundlePlan,
    stage: Stage,
    parameters: int,
    rounding: float,
    agreement: Agreement,
    variants: Sequence[Variant],
) -> dict[str, Any]:
    portable = {
        "graph": f"{stage.name}/{GRAPH}",
        "precision": "float32",
        "storage": plan.storage,
        "opset": plan.opset,
    }
    own = [{"graph": f"{stage.name}/{v.file}", "devices": list(v.devices)} for v in variants]
    return {
        "kind": stage.kind.value,
        "parameters": parameters,
        "live_values": live_values(plan.config, stage.name),
        "flops": count_flops(plan.config, stage.name),
        "agreement_with_pytorch": asdict(agreement),
        "largest_rounding_of_a_weight": rounding,
        "variants": [portable, *({**portable, **entry} for entry in own)],
    }


def _write_tokenizer(plan: BundlePlan, folder: Path) -> None:
    target = folder / "tokenizer"
    if plan.tokenizer is None:
        Vocabulary.clip().write(target, plan.config.text.context_length)
        return
    target.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        source = plan.tokenizer / name
        if not source.is_file():
            raise RequestError(f"{plan.tokenizer} has no {name}: give a CLIP tokenizer's folder")
        shutil.copyfile(source, target / name)
    if (plan.tokenizer / WORDS).is_file():
        shutil.copyfile(plan.tokenizer / WORDS, target / WORDS)
    known = Tokenizer(target, plan.config.text.context_length).vocabulary_size
    if known > plan.config.text.vocab_size:
        raise RequestError(
            f"the tokenizer in {plan.tokenizer} has {known} tokens, the text encoder knows "
            f"{plan.config.text.vocab_size}: give the tokenizer that the model was trained with"
        )


def _write_scheduler(plan: BundlePlan, folder: Path) -> None:
    sampler = plan.config.sampler()
    (folder / "scheduler").mkdir()
    metadata = {
        "_class_name": SCHEDULERS[sampler.method],
        "num_train_timesteps": sampler.train_steps,
        "beta_start": sampler.beta_start,
        "beta_end": sampler.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": sampler.prediction_type,
        "timestep_spacing": sampler.spacing,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    if sampler.method == "lcm":
        metadata["original_inference_steps"] = sampler.grid_steps
        metadata["timestep_scaling"] = sampler.timestep_scaling
    write_json(folder / "scheduler" / "scheduler_config.json", metadata)


def _model_index(plan: BundlePlan) -> dict[str, Any]:
    parts = {part: DIFFUSERS_CLASSES[part] for part in [*plan.stages, "tokenizer"]}
    scheduler = ["diffusers", SCHEDULERS[plan.config.method]]
    return {"_class_name": "TextToVideo", **parts, "scheduler": scheduler}


def _manifest(
    plan: BundlePlan, weights: Weights, stages: dict[str, Any], folder: Path
) -> dict[str, Any]:
    config = plan.config
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": plan.name,
        "model": {
            "latent_channels": config.vae.latent_channels,
            "vae_downsampling": config.vae.downsampling,
            "unet_downsampling": config.unet.downsampling,
            "scaling_factor": config.vae.scaling_factor,
            "context_length": config.text.context_length,
            "context_width": config.text.width,
            "guidance_width": config.unet.guidance_width,
        },
        "sampler": asdict(config.sampler()),
        "defaults": asdict(config.defaults),
        "stages": stages,
        "files": files_of(folder),
        "provenance": {
            **weights.provenance(),
            "config": config.to_dict(),
            "hummingbird_edge": importlib.metadata.version("hummingbird-edge"),
            "torch": torch.__version__,
        },
        "licence": plan.licence,
    }
