"""Run a model bundle: NumPy and an inference engine, never PyTorch.

from hummingbird_edge.runtime import TextToVideo

TextToVideo.from_bundle()("a red circle moving right", seed=7).save("out.mp4")
"""

import os
import sys
from typing import TYPE_CHECKING, Any

# Both engines tell their makers of each run unless they are kept from it before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

if TYPE_CHECKING:
    from hummingbird_edge.runtime.text_to_video import TextToVideo

__all__ = ["TextToVideo"]


def __getattr__(name: str) -> Any:
    # NumPy loads with the pipeline, not before: `hb-run --help` answers at once.
    if name == "TextToVideo":
        from hummingbird_edge.runtime.text_to_video import TextToVideo

        return TextToVideo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
