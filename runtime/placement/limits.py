"""The memory that this process may have: what the machine, a container or a limit leaves for it.

Linux: what is available, the process's control group and those around it (`memory.max` of version
2, `memory.limit_in_bytes` of version 1) less what others in them hold, and the limit of its address
space (`ulimit -v`). Windows: what is available, and the job that the process is in.
Source: Linux, "Control Group v2", "Memory Resource Controller"; getrlimit(2); Windows,
JOBOBJECT_EXTENDED_LIMIT_INFORMATION.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hummingbird_edge.runtime.devices.resident import resident_bytes

__all__ = ["container_bytes", "machine_bytes"]


def machine_bytes() -> int:
    """Return the most memory that this process can have now, in bytes: others hold theirs."""
    import psutil

    own = resident_bytes()
    free = psutil.virtual_memory().available + own
    known = (free, container_bytes(own=own), _address_space(), _job_bytes())
    return min(limit for limit in known if limit is not None)


def container_bytes(root: Path = Path("/"), own: int = 0) -> int | None:
    """Return what the tightest control group leaves this process, which holds `own` bytes.

    None where there is no limit.
    """
    left = []
    for limit, usage, cache in _groups(root):
        # Version 1 says "none" by a number as large as a page counter can be.
        if limit is not None and 0 < limit < 1 << 60:
            others = max(0, (usage or 0) - (cache or 0) - own)
            left.append(limit - min(others, limit))
    return min(left, default=None)


def _groups(root: Path) -> Iterator[tuple[int | None, int | None, int | None]]:
    """Yield limit, usage and file cache that can go, in bytes, of each group of this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "?", "")
        if controllers == "":
            base = root / "sys/fs/cgroup"
            names = "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # A container sees its own group as the root, whatever the path says.
        folder = base / group.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(base):
                cache = _entry(each / "memory.stat", names[2])
                yield _number(each / names[0]), _number(each / names[1]), cache


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):  # "max" is no limit
        return int(path.read_text(encoding="ascii"))
    return None


def _entry(path: Path, name: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return None


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _job_bytes() -> int | None:
    """Return the limit of the Windows job that this process is in; None for none."""
    import ctypes
    from ctypes import wintypes

    kernel = getattr(ctypes, "windll", None)
    if kernel is None:  # not Windows
        return None

    class Basic(ctypes.Structure):
        _fields_ = (
            ("times", ctypes.c_int64 * 2),
            ("flags", wintypes.DWORD),
            ("working_set", ctypes.c_size_t * 2),
            ("processes", wintypes.DWORD),
            ("affinity", ctypes.c_size_t),
            ("classes", wintypes.DWORD * 2),
        )

    class Extended(ctypes.Structure):
        _fields_ = (
            ("basic", Basic),
            ("counters", ctypes.c_uint64 * 6),
            ("process_limit", ctypes.c_size_t),
            ("job_limit", ctypes.c_size_t),
            ("peaks", ctypes.c_size_t * 2),
        )

    information, extended_limits = Extended(), 9
    size = ctypes.sizeof(information)
    query = kernel.kernel32.QueryInformationJobObject
    if not query(None, extended_limits, ctypes.byref(information), size, None):
        return None
    process, job = 0x100, 0x200  # which of the limits there are
    limits = {process: information.process_limit, job: information.job_limit}
    return min((v for flag, v in limits.items() if information.basic.flags & flag), default=None)
