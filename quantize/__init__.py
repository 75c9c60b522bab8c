"""Quantize a bundle's graphs: float16, and int8 with calibration.

from hummingbird_edge.quantize import quantize_bundle

quantize_bundle("hummingbird", "hummingbird-int8", precision="int8")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hummingbird_edge.quantize.bundle import quantize_bundle

__all__ = ["quantize_bundle"]


def __getattr__(name: str) -> Any:
    # ONNX and calibration load when they are used.
    if name == "quantize_bundle":
        from hummingbird_edge.quantize.bundle import quantize_bundle

        return quantize_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
