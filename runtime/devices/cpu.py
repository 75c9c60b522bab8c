"""The processor: its name, and how much of it this process may use."""

import os
import platform
from pathlib import Path

import psutil

__all__ = ["low_power_threads", "processor_name", "usable_cores"]


def processor_name() -> str:
    """Return the processor's name as the system tells it, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.environ.get("PROCESSOR_IDENTIFIER", platform.processor())
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def usable_cores() -> int:
    """Return how many logical cores this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity() or ())
    return os.cpu_count() or 1


def low_power_threads() -> int:
    """Return half as many threads as this process may use physical cores, at least one."""
    physical = psutil.cpu_count(logical=False) or usable_cores()
    return max(1, min(physical, usable_cores()) // 2)
