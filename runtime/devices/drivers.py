"""What the system tells of graphics cards, NPUs and their drivers."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

__all__ = ["driver_fingerprint"]

_CLASSES = r"SYSTEM\CurrentControlSet\Control\Class"
_WINDOWS_CLASSES = (
    "{4d36e968-e325-11ce-bfc1-08002be10318}",  # display adapters
    "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}",  # compute accelerators: NPUs
)
"""Source: Microsoft, "System-defined device setup classes available to vendors"."""


def driver_fingerprint() -> str:
    """Return a text that changes with cards and drivers, as far as the system tells."""
    return sha256(" ".join(_lines()).encode()).hexdigest()[:12]


if sys.platform == "win32":
    import winreg

    def _lines() -> Iterator[str]:
        """Yield name and version of every installed driver, and the Direct3D libraries' times."""
        for group in _WINDOWS_CLASSES:
            for number in range(64):
                with suppress(OSError):
                    yield _driver(rf"{_CLASSES}\{group}\{number:04d}")
        root = Path(os.environ.get("SYSTEMROOT", "C:/Windows"))
        for path in sorted(root.glob("System32/d3d12*")):
            yield f"{path.name}:{path.stat().st_mtime_ns}"

    def _driver(key: str) -> str:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as entry:
            names = ("DriverDesc", "DriverVersion")
            return " ".join(str(winreg.QueryValueEx(entry, name)[0]) for name in names)

else:

    def _lines() -> Iterator[str]:
        """Yield the versions of AMD's drivers, the cards, and the times of Vulkan's drivers."""
        told = [Path("/sys/module/amdgpu/version"), Path("/opt/rocm/.info/version")]
        for name in ("vendor", "device"):
            told += sorted(Path("/sys/class/drm").glob(f"card?/device/{name}"))
        for path in told:
            if path.is_file():
                yield f"{path}:{path.read_text(encoding='utf-8', errors='replace')}"
        for path in sorted(Path("/usr/share/vulkan/icd.d").glob("*.json")):
            with suppress(OSError):
                yield f"{path.name}:{path.stat().st_mtime_ns}"
