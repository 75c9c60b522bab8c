"""An OpenVINO graph whose numbers are all bfloat16, weights and activations.

    bf16(x) = the upper 16 bits of a float32, rounded to nearest even

Told only to compute in bfloat16, OpenVINO's CPU (2026.4) keeps a float32 copy of every weight next
to the packed bfloat16 one that it reads: 5.6 GB for a U-Net of 0.77 billion weights, against 3.7 in
this form. Layout: Intel, "BFLOAT16 hardware numerics definition" (2018).
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["in_bfloat16", "upper_halves"]

_PIECE = 1 << 20
_DATA_ONLY = ("Interpolate",)
"""Operators whose other inputs are sizes and scales, which stay as they are."""


def upper_halves(numbers: NDArray[Any]) -> NDArray[np.uint16]:
    """Round finite floats of any shape to bfloat16, returned as the bits (same shape) uint16."""
    flat = numbers.reshape(-1)
    halves = np.empty(flat.size, np.uint16)
    for start in range(0, flat.size, _PIECE):  # a float32 copy of one piece, not of the whole
        bits = flat[start : start + _PIECE].astype(np.float32).view(np.uint32)
        halves[start : start + _PIECE] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return halves.reshape(numbers.shape)


def in_bfloat16(model: Any, exact: Collection[str] = ()) -> None:
    """Turn an `openvino.Model` with float16 or float32 weights into bfloat16, in place.

    Inputs and outputs stay float32, and the nodes named in `exact`. What comes before the first
    weight stays float32 as well: the sinusoids of timestep and frame rate need it.
    """
    _Rewrite(exact).run(model)


class _Rewrite:
    """One pass over a graph in order; what was converted once is not converted again."""

    def __init__(self, exact: Collection[str]) -> None:
        from openvino import Type, opset13

        self.exact = exact

        self.ops, self.bf16 = opset13, Type.bf16
        self.f32 = Type.f32
        self.floats = (Type.f16, Type.f32)
        self.converted: dict[tuple[str, int], Any] = {}

    def run(self, model: Any) -> None:
        for node in model.get_ordered_ops():
            kind = node.get_type_name()
            if kind in ("Constant", "Parameter"):
                continue
            if kind == "Convert" and self._is_weight(node.input_value(0)):
                self._replace_weight(node)
            elif kind == "Result":
                self._widen(node.input(0))
            elif node.get_name() in self.exact:
                for port in node.inputs():
                    self._widen(port)
                node.validate_and_infer_types()
            else:
                self._agree(node, kind)
        model.validate_nodes_and_infer_types()

    def _is_weight(self, value: Any) -> bool:
        is_constant = value.get_node().get_type_name() == "Constant"
        return is_constant and value.get_element_type() in self.floats

    def _replace_weight(self, convert: Any) -> None:
        """Put a bfloat16 constant where a stored weight was widened to float32."""
        constant = self._constant(convert.input_value(0))
        for reader in list(convert.output(0).get_target_inputs()):
            reader.replace_source_output(constant)

    def _agree(self, node: Any, kind: str) -> None:
        """Bring all float inputs of a node to bfloat16 where one is."""
        inputs = node.inputs()
        if any(port.get_source_output().get_element_type() == self.bf16 for port in inputs):
            for port in inputs[:1] if kind in _DATA_ONLY else inputs:
                source = port.get_source_output()
                if source.get_element_type() in self.floats:
                    port.replace_source_output(self._narrow(source))
        node.validate_and_infer_types()

    def _narrow(self, value: Any) -> Any:
        key = value.get_node().get_name(), value.get_index()
        if key not in self.converted:
            self.converted[key] = (
                self._constant(value)
                if self._is_weight(value)
                else self.ops.convert(value, self.bf16).output(0)
            )
        return self.converted[key]

    def _widen(self, port: Any) -> None:
        source = port.get_source_output()
        if source.get_element_type() == self.bf16:
            names = source.get_names()
            wide = self.ops.convert(source, self.f32).output(0)
            source.set_names(set())
            wide.set_names(names)
            port.replace_source_output(wide)

    def _constant(self, value: Any) -> Any:
        from openvino import Tensor

        numbers = value.get_node().get_data()
        halves = upper_halves(numbers)
        tensor = Tensor(np.atleast_1d(halves), list(numbers.shape), self.bf16)
        return self.ops.constant(tensor, shared_memory=False).output(0)
