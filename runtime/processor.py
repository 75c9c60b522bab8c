"""The processor's name."""

import os
import platform
from pathlib import Path

__all__ = ["processor_name"]


def processor_name() -> str:
    """Return the processor's name as the system tells it, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.environ.get("PROCESSOR_IDENTIFIER", platform.processor())
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
