"""Import the inference engines with their telemetry off.

Both report to their makers from the moment they are imported: OpenVINO through a package of its
own, ONNX Runtime by a store in the user's cache directory. It is switched off for the engine that
is imported here, and nothing else of the host process is touched. An engine that a host imported
before is taken as it is.
"""

import os
import sys
from functools import cache
from typing import Any

__all__ = ["import_onnxruntime", "import_openvino"]

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_OPENVINO_TELEMETRY = "openvino_telemetry"


@cache
def import_onnxruntime() -> Any:
    """Return the module `onnxruntime`; raises ImportError or OSError."""
    is_ours = _NO_TELEMETRY not in os.environ
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        import onnxruntime
    finally:
        if is_ours:
            del os.environ[_NO_TELEMETRY]
    onnxruntime.disable_telemetry_events()
    return onnxruntime


@cache
def import_openvino() -> Any:
    """Return the module `openvino`; raises ImportError, OSError or RuntimeError."""
    known = sys.modules.get(_OPENVINO_TELEMETRY)
    if known is None:
        sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if known is None:
            del sys.modules[_OPENVINO_TELEMETRY]
    return openvino
