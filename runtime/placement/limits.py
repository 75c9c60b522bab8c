"""The memory that this process may have: the machine's, or less by a container or a limit.

Linux: the process's control group and those around it (`memory.max` of version 2,
`memory.limit_in_bytes` of version 1), and the limit of its address space (`ulimit -v`).
Source: Linux, "Control Group v2", "Memory Resource Controller"; getrlimit(2).
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["container_bytes", "machine_bytes"]


def machine_bytes() -> int:
    """Return the most memory that this process can have, in bytes."""
    import psutil

    known = (psutil.virtual_memory().total, container_bytes(), _address_space())
    return min(limit for limit in known if limit is not None)


def container_bytes(root: Path = Path("/")) -> int | None:
    """Return the smallest limit of the control groups that this process is in; None for none."""
    found = []
    for path in _limit_files(root):
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(path.read_text(encoding="ascii")))
    # Version 1 says "none" by a number as large as a page counter can be.
    return min((limit for limit in found if 0 < limit < 1 << 60), default=None)


def _limit_files(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "?", "")
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A container sees its own group as the root, whatever the path says.
        folder = base / group.lstrip("/")
        yield from (each / name for each in (folder, *folder.parents) if each.is_relative_to(base))


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit
