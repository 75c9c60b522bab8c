"""The memory that this process holds: now, and at most so far."""

import contextlib
import ctypes
import gc
import sys

import psutil

__all__ = ["MemoryMeter", "peak_bytes", "resident_bytes", "return_freed"]


def return_freed() -> None:
    """Return what was freed to the system, where the allocator has a way (glibc).

    At full size a compiled model leaves 1.7 GB with it, sessions of a calibration 0.6 GB.
    """
    gc.collect()  # graphs refer to themselves, and hold weights
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return the bytes of this process that are in memory now."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the most bytes of this process that were in memory at once since it began."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) << 10


class MemoryMeter:
    """The most memory that this process holds from now on."""

    def __init__(self) -> None:
        self._before, self._seen = peak_bytes(), resident_bytes()

    @property
    def peak_bytes(self) -> int:
        """The peak; exact where it is the highest of the process, else the most that was seen."""
        self._seen = max(self._seen, resident_bytes())
        peak = peak_bytes()
        return peak if peak > self._before else self._seen
