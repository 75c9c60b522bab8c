"""Nearest-neighbour upsampling by 2 and the 3 x 3 convolution after it, on the small picture.

    y = W * up(x) + b

A pixel of y with row 2 i + a and column 2 j + c reads 2 x 2 pixels of x alone, since neighbours in
up(x) repeat each other. Along one axis, with taps w_0, w_1, w_2 of W and x_-1 and x_h zero,

    y_2i   = w_0 x_i-1 + (w_1 + w_2) x_i
    y_2i+1 = (w_0 + w_1) x_i + w_2 x_i+1

so a 2 x 2 convolution of x, padded by 1, gives the four phases (a, c) as channels, 4 products
instead of 9. Phase 1 at position p is row 2 p - 1 and phase 0 row 2 p: interleaved with phase 1
first, rows run from -1 to 2 h, and the first and the last row are cut off. Sources: Shi et al. 2016
(arXiv:1609.05158) for convolving before the pixels are shuffled; Aitken et al. 2017
(arXiv:1707.02937) for nearest upsampling in that form.

Lowerings: Conv, DepthToSpace, Slice everywhere. The sums of taps are stored in float32 where the
other weights are float16: rounded, they would be another network than the published one.
"""

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn
from torch.nn import functional

from hummingbird_edge.kernels.pattern import only_consumer, replace

__all__ = ["PhaseConv", "UpsampleConv", "join_crops", "phase_weight"]

# Rows: phase 1, then phase 0, each with its two taps; columns: taps of the 3 x 3 convolution.
_SUMS = ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 1.0))


def phase_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight (4 O, C, 2, 2) of the phases for `weight` (O, C, 3, 3), in its dtype.

    Output channels are ordered as `pixel_shuffle` reads them: the four phases of the first, and so
    on.
    """
    sums = torch.tensor(_SUMS, dtype=weight.dtype, device=weight.device)
    taps = (sums @ weight.detach() @ sums.T).unflatten(3, (2, 2)).unflatten(2, (2, 2))
    # (O, C, phase, tap, phase, tap) -> (O, phase, phase, C, tap, tap)
    return taps.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).contiguous()


class UpsampleConv(nn.Conv2d):
    """Double (N, C, H, W) and convolve it; weight (C_out, C, 3, 3) and bias as published."""

    def __init__(self, channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.interpolate(x, scale_factor=2.0))

    def for_export(self) -> "PhaseConv":
        """Return the form for graphs, with a weight of its own."""
        return PhaseConv(self)


class PhaseConv(nn.Conv2d):
    """The same layer as a 2 x 2 convolution before the upsampling."""

    def __init__(self, published: UpsampleConv) -> None:
        channels, out_channels = published.in_channels, 4 * published.out_channels
        super().__init__(channels, out_channels, 2, padding=1, device="meta")
        self.weight = nn.Parameter(phase_weight(published.weight))
        bias = published.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().repeat_interleave(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional.pixel_shuffle(super().forward(x), 2)[:, :, 1:-1, 1:-1]
        return out


def join_crops(model: ir.Model) -> int:
    """Cut rows and columns by one Slice, in place; returns how many layers `model` has.

    The exporter writes two, and each copies the large picture.
    """
    graph, count = model.graph, 0
    bounds = {"starts": [1, 1], "ends": [-1, -1], "axes": [2, 3]}
    constants: list[ir.Value] = []
    for shuffle in [node for node in graph if node.op_type == "DepthToSpace"]:
        rows = only_consumer(shuffle, "Slice")
        columns = None if rows is None else only_consumer(rows, "Slice")
        if columns is None:
            continue
        if not constants:
            for key, numbers in bounds.items():
                tensor = ir.tensor(np.array(numbers, np.int64), name=f"crop_{key}")
                constants.append(ir.val(f"crop_{key}", const_value=tensor))
                graph.register_initializer(constants[-1])
        crop = ir.node("Slice", [shuffle.outputs[0], *constants], name=f"{columns.name}_crop")
        graph.insert_after(columns, crop)
        replace(columns.outputs[0], crop.outputs[0])
        count += 1
    if count:
        RemoveUnusedNodesPass()(model)
    return count
