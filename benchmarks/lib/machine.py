"""The machine a figure was measured on: processor, GPUs, memory, power plan, packages, commit.

Everything is read from the system; what it does not report is left empty.
"""

import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from hummingbird_edge.runtime.devices.cpu import processor_name, usable_cores

__all__ = ["Machine", "device_memory_mib", "peak_mib"]

_PACKAGES = (
    "hummingbird-edge",
    "numpy",
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-ep-webgpu",
    "openvino",
    "torch",
    "torchao",
    "nncf",
    "optimum",
)
_DRM = Path("/sys/class/drm")


@dataclass(frozen=True, slots=True)
class Machine:
    """The state of a machine when something was measured."""

    cpu: str
    cores: int
    """Logical cores that this process may use."""
    memory_gib: float
    gpus: tuple[str, ...]
    """Name or PCI number, and driver."""
    power: str
    """Power plan or governor, and whether on battery; empty where unreadable."""
    system: str
    python: str
    packages: dict[str, str]
    commit: str
    """Of the clone, with `+` where files were changed; empty outside git."""
    busy: float = 0.0
    """CPU utilization by other processes just before, 0 to 1."""

    @classmethod
    def here(cls) -> "Machine":
        """Return this machine."""
        return cls(
            processor_name(),
            usable_cores(),
            round(psutil.virtual_memory().total / 2**30, 1),
            _gpus(),
            _power(),
            _system(),
            platform.python_version(),
            _packages(),
            _commit(),
            round(psutil.cpu_percent(interval=0.5) / 100, 2),
        )

    def __str__(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.cpu or 'unknown processor'}, {self.cores} cores, {self.memory_gib} GiB{gpus}"


def peak_mib() -> float:
    """Return this process's largest resident set so far, mapped files included, in MiB."""
    with suppress(OSError):  # Linux: of this program alone, not of the one that started it
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    if peak is None:
        import resource

        unit = 1 if platform.system() == "Darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return round(float(peak) / 2**20, 1)


def device_memory_mib() -> float | None:
    """Return the GPU memory in use, shared memory included; None where no driver reports it."""
    used = None
    for name in ("mem_info_vram_used", "mem_info_gtt_used"):
        for path in _DRM.glob(f"card[0-9]/device/{name}"):
            with suppress(OSError, ValueError):
                used = (used or 0) + int(path.read_text(encoding="ascii"))
    return None if used is None else round(used / 2**20, 1)


def _system() -> str:
    """Return the system and its version, without what a distributor appends to a kernel's."""
    release = platform.release().partition("-")[0]
    system = f"{platform.system()}-{release}-{platform.machine()}"
    libc = "".join(platform.libc_ver())
    return f"{system}-with-{libc}" if libc else system


def _gpus() -> tuple[str, ...]:
    if platform.system() == "Windows":
        query = (
            "Get-CimInstance Win32_VideoController | % { $_.Name + ', driver ' + $_.DriverVersion }"
        )
        return tuple(_output("powershell", "-NoProfile", "-Command", query).splitlines())
    found = []
    for card in sorted(_DRM.glob("card[0-9]/device/uevent")):
        with suppress(OSError):
            pairs = (line.partition("=") for line in card.read_text(encoding="utf-8").splitlines())
            entries = {key: value for key, _, value in pairs}
            driver = entries.get("DRIVER", "unknown")
            found.append(f"PCI {entries.get('PCI_ID', 'unknown')}, driver {driver}")
    return tuple(found)


def _power() -> str:
    parts = []
    if platform.system() == "Windows":
        parts.append(_output("powercfg", "/getactivescheme").strip())
    for path in (
        "/sys/firmware/acpi/platform_profile",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    ):
        with suppress(OSError):
            parts.append(Path(path).read_text(encoding="utf-8").strip())
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is not None:
        parts.append("on mains" if battery.power_plugged else "on battery")
    return ", ".join(part for part in parts if part)


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _commit() -> str:
    folder = str(
        Path(sys.argv[0]).resolve().parent
    )  # the folder of the script: this module may be installed elsewhere
    commit = _output("git", "-C", folder, "rev-parse", "--short", "HEAD").strip()
    source = [":/", ":(exclude,top)benchmarks/results"]  # a new result changes no figure
    status = ("git", "-C", folder, "status", "--porcelain", "-uno", "--", *source)
    changed = commit and _output(*status).strip()
    return f"{commit}+" if changed else commit


def _output(*command: str) -> str:
    """Return what a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
