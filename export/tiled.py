"""The VAE's decoder in two graphs for `runtime.tiles`, next to `model.onnx`, with its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.export.agreement import Agreement, assert_close
from hummingbird_edge.export.graph import export_graph
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.vae import VAE, VAEDecoderHead, VAEDecoderTail
from hummingbird_edge.export.stage import STAGES, Stage
from hummingbird_edge.kernels.variant import GRAPH, VARIANTS, save_variant
from hummingbird_edge.quantize.storage import store_as_float16
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.tiles import Tiles, decode_tiled
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["HEAD", "TAIL", "TiledGraphs", "save_tiled"]

HEAD, TAIL = "head.onnx", "tail.onnx"
_FRAMES = {0: "frames", 2: "height", 3: "width"}
_HEAD = Stage("vae_decoder", "vae", {"latent_sample": _FRAMES}, "features", {0: "frames"})
_TAIL = Stage(
    "vae_decoder",
    "vae",
    {
        "features": _FRAMES,
        "row_weights": {2: "height"},
        "column_weights": {3: "width"},
        "statistics": {0: "frames"},
    },
    "sample",
    {0: "frames"},
    {"own_statistics": {0: "frames"}},
)
_INLINE = 256
"""Bytes up to which a weight lies in the graph; larger ones are in the shared file."""


@dataclass(frozen=True, slots=True)
class TiledGraphs:
    """What was written."""

    head: Mapping[str, tuple[str, ...]]
    """File to the devices it is for; none means all."""
    tail: str
    """File, for all devices."""
    head_parameters: int
    tail_parameters: int
    scale: int
    """Features along one side of a latent pixel."""
    layers: int
    """Normalizations of the tail."""
    groups: int
    """Groups of each."""
    agreement: Agreement
    """Of head and tail together."""


def save_tiled(
    vae: VAE,
    config: ModelConfig,
    expected: list[NDArray[np.float64]],
    opset: int,
    storage: str,
    folder: Path,
) -> TiledGraphs:
    """Write both graphs into `folder`, which holds the whole decoder's `model.onnx` already.

    `expected` are the decoder's outputs for the inputs of `agreement`. Raises CheckpointError where
    head and tail, one after the other, give others, and RequestError for an unknown form.
    """
    latents = STAGES["vae_decoder"].inputs(config, 3, 6, 10, 0)
    head, tail = VAEDecoderHead(vae).eval(), VAEDecoderTail(vae).eval()
    with torch.no_grad():
        features = head(**latents)
    norms = sum(isinstance(m, nn.GroupNorm) for m in vae.decoder.modules())
    layers, groups = vae.decoder.fine_norms, config.vae.groups
    inputs = {
        "features": features,
        "row_weights": torch.ones(1, 1, features.shape[2], 1),
        "column_weights": torch.ones(1, 1, 1, features.shape[3]),
        "statistics": torch.full((3, layers, 2, groups), -1.0),
    }
    sizes: list[int] = []
    for module, stage, given, file in ((head, _HEAD, latents, HEAD), (tail, _TAIL, inputs, TAIL)):
        model = export_graph(module, stage, given, opset)
        if storage == "float16":
            store_as_float16(model)
        sizes.append(_share_weights(model, folder / GRAPH))
        onnx_ir.save(model, folder / file)
        onnx.checker.check_model(str(folder / file), full_check=False)
    kernels = {"attentions": 1, "gelus": 0, "group norms": norms - layers}
    heads: dict[str, tuple[str, ...]] = {HEAD: ()}
    heads |= {save_variant(folder, v, kernels, HEAD): v.devices for v in VARIANTS}
    for file, devices in heads.items():
        if not devices or "cpu" in devices:
            agreement = _check(expected, config, layers, folder / file)
    scale = features.shape[2] // latents["latent_sample"].shape[2]
    return TiledGraphs(heads, TAIL, sizes[0], sizes[1], scale, layers, groups, agreement)


def _share_weights(model: onnx_ir.Model, source: Path) -> int:
    """Let the weights of `model` be those in the file of `source`; returns how many numbers.

    They are found by their bytes: the exporter folds some into other shapes, under other names.
    """
    count = 0
    known: dict[tuple[Any, bytes], onnx_ir.ExternalTensor] = {}
    for value in onnx_ir.load(source).graph.initializers.values():
        stored = value.const_value
        if isinstance(stored, onnx_ir.ExternalTensor):
            known[stored.dtype, stored.tobytes()] = stored
    for value in model.graph.initializers.values():
        weight = value.const_value
        if weight is None or not weight.dtype.is_floating_point():
            continue
        count += weight.size
        if weight.nbytes <= _INLINE:
            continue
        stored = known.get((weight.dtype, weight.tobytes()))
        if stored is None:
            raise RequestError(
                f"{value.name} of the tiled decoder is not in the whole one's weights: this "
                f"PyTorch ({torch.__version__}) writes another form, use one of 2.6 to 2.13"
            )
        value.const_value = onnx_ir.ExternalTensor(
            stored.location,
            stored.offset,
            stored.length,
            weight.dtype,
            shape=onnx_ir.Shape(weight.shape.numpy()),
            name=str(value.name),
            base_dir=stored.base_dir,
        )
    return count


def _check(
    expected: list[NDArray[np.float64]], config: ModelConfig, layers: int, graph: Path
) -> Agreement:
    """Hold the head `graph` and the tail, on one tile as large as the picture, to the decoder."""
    cpu, groups = Backend.parse("cpu"), config.vae.groups
    head, tail = (open_session(path, cpu) for path in (graph, graph.parent / TAIL))

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        height, width = inputs["latent_sample"].shape[2:]
        one = Tiles(height, width, height, width)
        return decode_tiled(inputs["latent_sample"], one, head.run, tail.run_all, layers, groups)

    return assert_close(expected, STAGES["vae_decoder"], config, run)
