"""The variants of a stage: further graphs that share the weights file of `model.onnx`."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir

from hummingbird_edge.kernels.fused_attention import fuse_attention
from hummingbird_edge.kernels.fused_gelu import fuse_gelu
from hummingbird_edge.kernels.fused_group_norm import fuse_group_norm
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["FUSIONS", "GRAPH", "VARIANTS", "Fusion", "Variant", "count_fused", "save_variant"]

GRAPH = "model.onnx"
"""The graph of a stage that the variants are made from."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """A kernel that becomes a single node."""

    fuse: Callable[[onnx_ir.Model], int]
    """Rewrites a graph in place; returns how many of its kernels are single nodes then.

    Each is called after a node that it replaces: `softmax_3_attention`."""
    operator: str
    """The type of that node."""


FUSIONS: Mapping[str, Fusion] = {
    "attentions": Fusion(fuse_attention, "MultiHeadAttention"),
    "gelus": Fusion(fuse_gelu, "Gelu"),
    "group norms": Fusion(fuse_group_norm, "GroupNorm"),
}
"""By the name under which `export.stage.count_kernels` counts the layers that have the kernel."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A graph for some devices, with some kernels as single nodes; listed in `VARIANTS`."""

    file: str
    devices: tuple[str, ...]
    """Devices that have these operators and were seen to be right; WebGPU's attention was not."""
    kernels: tuple[str, ...]
    """Keys of `FUSIONS`."""


VARIANTS = (
    Variant("fused.onnx", ("cpu",), ("attentions", "gelus")),
    Variant("dml.onnx", ("dml",), ("attentions", "gelus", "group norms")),
)


def count_fused(model: onnx_ir.Model) -> dict[str, int]:
    """Return how many kernels of each kind are single nodes in a graph."""
    nodes = Counter(node.op_type for node in model.graph)
    return {kernel: nodes[fusion.operator] for kernel, fusion in FUSIONS.items()}


def save_variant(
    folder: Path, variant: Variant, expected: Mapping[str, int], graph: str = GRAPH
) -> str:
    """Write a variant of `folder / graph` next to it; returns its file name.

    `expected` is the number of each kernel in the model. Raises RequestError if not all of them
    have the form that is fused.
    """
    model = onnx_ir.load(folder / graph)
    for kernel in variant.kernels:
        found = FUSIONS[kernel].fuse(model)
        if found != expected[kernel]:
            raise RequestError(
                f"{found} of {expected[kernel]} {kernel} in {folder.name} have the form that is "
                f"fused: this PyTorch ({version('torch')}) writes another, use one of 2.6 to 2.13"
            )
    file = variant.file if graph == GRAPH else f"{Path(graph).stem}_{variant.file}"
    onnx_ir.save(model, folder / file)
    onnx.checker.check_model(str(folder / file), full_check=False)
    return file
