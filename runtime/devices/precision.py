"""The precisions that graphs are stored for and engines compute in, under all their names."""

from enum import Enum

__all__ = ["Precision"]


class Precision(str, Enum):
    """A precision by the name that a user types; equal to that text."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    """Products of 8-bit integers; what is between them is in another precision."""

    def __str__(self) -> str:
        return self.value

    @property
    def graph(self) -> str:
        """The name of a graph of this precision in a manifest, which is ONNX's: `float32`."""
        return _GRAPHS[self]

    @property
    def openvino(self) -> str:
        """The name of its number type in OpenVINO."""
        return _OPENVINO[self]

    @property
    def item_bytes(self) -> int:
        """Bytes of a number."""
        return _BYTES[self]


_GRAPHS = {
    Precision.FP32: "float32",
    Precision.BF16: "bfloat16",
    Precision.FP16: "float16",
    Precision.INT8: "int8",
}
_OPENVINO = {
    Precision.FP32: "f32",
    Precision.BF16: "bf16",
    Precision.FP16: "f16",
    Precision.INT8: "i8",
}
_BYTES = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP16: 2, Precision.INT8: 1}
