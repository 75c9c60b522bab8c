"""Joules used, where the system tells: counters of processor packages on Linux, else a battery.

A figure is of the whole package or machine, over the time between two readings: other programs and
what is used when idle are in it, nothing is subtracted. A package has the processor's cores and, on
laptops, a GPU or NPU in it, which not every driver counts; a card of its own is not in it. So
packages tell about stages on the CPU, and a battery that discharges about any.

Source: Linux' Documentation/power/powercap/powercap.rst.
"""

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hummingbird_edge.runtime.devices.battery import (
    AppleBattery,
    Charge,
    linux_batteries,
    linux_charges,
    windows_charges,
)
from hummingbird_edge.runtime.devices.device import Device

__all__ = ["Battery", "EnergyMeter", "NoMeter", "Packages", "find_meter"]

SYSTEM = Path("/sys/class")
"""Where Linux shows devices."""
_MIN_BATTERY_J = 360.0
"""Ten steps of 10 mWh, the unit of most batteries: less is told with an error above 10 %."""
_MIN_BATTERY_S = 60.0
"""Batteries report late, some every 30 s."""


class EnergyMeter(ABC):
    """What counts the joules used since it was made."""

    source = ""
    """`packages` or `battery`; nothing where the system tells nothing."""
    covers_all = False
    """Whether it counts every device of the machine, not the CPU alone."""
    min_joules, min_seconds = 0.0, 0.0
    """Less is not told: the counter is too coarse for it."""

    @abstractmethod
    def read(self) -> float | None:
        """Return joules since the meter was made; None as soon as it once could not be read."""

    def covers(self, device: Device) -> bool:
        """Tell whether what `device` uses is counted."""
        return self.covers_all or not device.needs_proof

    def told(self, joules: float | None, seconds: float) -> float | None:
        """Return the joules used in so many seconds, or None where they are too few to trust."""
        is_enough = joules is not None and joules >= self.min_joules and seconds >= self.min_seconds
        return joules if is_enough else None


class NoMeter(EnergyMeter):
    """The meter of a system that tells nothing."""

    def read(self) -> float | None:
        """Return None."""
        return None


@dataclass(frozen=True, slots=True)
class _Counter:
    """A file that counts microjoules upwards, then begins again at zero."""

    path: Path
    range_uj: int

    def read(self) -> int:
        """Return microjoules; raises OSError or ValueError."""
        return int(self.path.read_text(encoding="ascii"))


class Packages(EnergyMeter):
    """Counters of all processor packages, Intel's and AMD's: they take the same driver."""

    source = "packages"
    min_joules, min_seconds = 1e-3, 0.02  # updated every millisecond; some virtual ones stand still

    def __init__(self, root: Path) -> None:
        """Begin to count; raises OSError or ValueError where a counter is missing or unreadable."""
        self._counters = [
            _Counter(zone / "energy_uj", int(_text(zone / "max_energy_range_uj")))
            for zone in sorted((root / "powercap").glob("intel-rapl:*"))
            # The others are parts of a package, its memory, or the platform around it.
            if _text(zone / "name").startswith("package")
        ]
        if not self._counters:
            raise FileNotFoundError(f"{root / 'powercap'} has no processor package")
        self._last = [counter.read() for counter in self._counters]
        self._used_uj: int | None = 0

    def read(self) -> float | None:
        """Return joules since the meter was made; microseconds a package."""
        if self._used_uj is None:
            return None
        try:
            now = [counter.read() for counter in self._counters]
        except (OSError, ValueError):
            self._used_uj = None
            return None
        for counter, before, after in zip(self._counters, self._last, now, strict=True):
            wrapped = counter.range_uj if after < before else 0
            self._used_uj += after - before + wrapped
        self._last = now
        return self._used_uj / 1e6


class Battery(EnergyMeter):
    """Batteries that discharge: what they lose is what the whole machine uses."""

    source = "battery"
    covers_all = True
    min_joules, min_seconds = _MIN_BATTERY_J, _MIN_BATTERY_S

    def __init__(self, charges: Callable[[], list[Charge]]) -> None:
        """Begin to count; `charges` raises OSError or ValueError where nothing discharges."""
        self._charges, self._last = charges, charges()
        self._used_j: float | None = 0.0

    def read(self) -> float | None:
        """Return joules since the meter was made; None once a charger was plugged in."""
        if self._used_j is None:
            return None
        try:
            now = self._charges()
            # A voltage follows the load: its change is no energy, the charge's is.
            self._used_j += sum(
                (before.amount - after.amount) * (before.volts + after.volts) / 2 * 3600
                for before, after in zip(self._last, now, strict=True)
            )
        except (OSError, ValueError):
            self._used_j = None
            return None
        self._last = now
        return self._used_j


def find_meter(root: Path | None = None) -> EnergyMeter:
    """Return the meter of this machine as it is now; `root` is Linux's /sys/class."""
    root = root or SYSTEM
    meters: dict[str, list[Callable[[], EnergyMeter]]] = {
        "Linux": [
            lambda: Packages(root),
            lambda: Battery(partial(linux_charges, linux_batteries(root))),
        ],
        "Windows": [lambda: Battery(windows_charges)],
        "Darwin": [lambda: Battery(AppleBattery())],
    }
    for make in meters.get(platform.system(), []):
        try:
            return make()
        except (OSError, ValueError):
            continue
    return NoMeter()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
