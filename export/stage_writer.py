"""Write one stage of a bundle: its graphs, their weights and its entries in the manifest."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hummingbird_edge.export.agreement import Agreement, compare, reference_outputs
from hummingbird_edge.export.bundle_plan import BundlePlan
from hummingbird_edge.export.flops import count_flops
from hummingbird_edge.export.graph import export_graph, release_weights, save_graph
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.export.preview import latent_to_rgb
from hummingbird_edge.export.stage import STAGES, Stage, count_kernels, live_values
from hummingbird_edge.export.tiled import TiledGraphs, save_tiled
from hummingbird_edge.export.weights import Weights
from hummingbird_edge.kernels.variant import VARIANTS, Variant, save_variant
from hummingbird_edge.quantize.bundle_folder import GRAPH
from hummingbird_edge.quantize.storage import round_to_float16, store_as_float16
from hummingbird_edge.runtime.devices.resident import return_freed

__all__ = ["WrittenStage", "write_stage"]


@dataclass(frozen=True, slots=True)
class WrittenStage:
    """A stage whose graphs are written."""

    entries: Mapping[str, Any]
    """In the manifest, by their names."""
    summary: str
    """A line for the user."""


def write_stage(plan: BundlePlan, name: str, weights: Weights, folder: Path) -> WrittenStage:
    """Export the stage `name` into the bundle `folder`, and compare its graphs with PyTorch.

    Raises CheckpointError or OutputError.
    """
    started, stage = time.monotonic(), STAGES[name]
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
    return WrittenStage(entries, f"{name}: {parameters:,} parameters, {agreement}, {seconds:.0f} s")


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
