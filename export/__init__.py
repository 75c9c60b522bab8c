"""Turn checkpoints into model bundles.

from hummingbird_edge.export import build_bundle

build_bundle("amd/AMD-Hummingbird-T2V", "hummingbird", storage="float16")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hummingbird_edge.export.build import build_bundle

__all__ = ["build_bundle"]


def __getattr__(name: str) -> Any:
    # PyTorch loads when it is used.
    if name == "build_bundle":
        from hummingbird_edge.export.build import build_bundle

        return build_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
