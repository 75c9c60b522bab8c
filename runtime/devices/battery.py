"""What is left in the batteries that this machine runs on.

Every function raises OSError or ValueError where no battery discharges or none tells its charge.

Sources: Linux' Documentation/ABI/testing/sysfs-class-power; SYSTEM_BATTERY_STATE of Windows' power
API; AppleSmartBattery in macOS' registry.
"""

import ctypes
import plistlib
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.parsers.expat import ExpatError

__all__ = [
    "AppleBattery",
    "BatteryState",
    "Charge",
    "apple_charges",
    "linux_batteries",
    "linux_charges",
    "windows_charges",
]

_APPLE_PERIOD_S = 2.0
"""A program is started for each reading there: not more often than this."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What is left in a battery."""

    amount: float
    """Watt-hours, or ampere-hours where the battery counts those."""
    volts: float = 1.0
    """1 where `amount` is watt-hours."""


def linux_batteries(root: Path) -> list[Path]:
    """Return the folders of the machine's batteries in /sys/class: no chargers, no mouse's."""
    return [
        supply
        for supply in sorted((root / "power_supply").iterdir())
        if _text(supply / "type") == "Battery" and _scope(supply) != "Device"
    ]


def linux_charges(batteries: Iterable[Path]) -> list[Charge]:
    """Return what is left in these batteries.

    One that is full or not in use stays as it is; one that is charged is an error.
    """
    found, states = list[Charge](), set[str]()
    for supply in batteries:
        states.add(_text(supply / "status"))
        if (supply / "energy_now").exists():
            found.append(Charge(int(_text(supply / "energy_now")) / 1e6))
        else:
            ampere_hours = int(_text(supply / "charge_now")) / 1e6
            found.append(Charge(ampere_hours, int(_text(supply / "voltage_now")) / 1e6))
    if "Discharging" not in states or "Charging" in states:
        raise ValueError(f"no battery discharges: {sorted(states)}")
    return found


class BatteryState(ctypes.Structure):
    """SYSTEM_BATTERY_STATE of Windows' winnt.h."""

    _fields_ = (
        ("ac_on_line", ctypes.c_uint8),
        ("battery_present", ctypes.c_uint8),
        ("charging", ctypes.c_uint8),
        ("discharging", ctypes.c_uint8),
        ("spare", ctypes.c_uint8 * 3),
        ("tag", ctypes.c_uint8),
        ("max_capacity", ctypes.c_uint32),
        ("remaining_capacity", ctypes.c_uint32),  # mWh
        ("rate", ctypes.c_uint32),
        ("estimated_time", ctypes.c_uint32),
        ("default_alert_1", ctypes.c_uint32),
        ("default_alert_2", ctypes.c_uint32),
    )

    def charges(self) -> list[Charge]:
        """Return what is left; raises ValueError where it does not discharge."""
        if self.ac_on_line or not self.discharging:
            raise ValueError("the battery does not discharge")
        return [Charge(self.remaining_capacity / 1e3)]


def windows_charges() -> list[Charge]:
    library = getattr(ctypes, "WinDLL", None)  # other systems have none
    if library is None:
        raise OSError("Windows alone has this")
    state = BatteryState()
    system_battery_state = 5  # POWER_INFORMATION_LEVEL
    status = library("powrprof").CallNtPowerInformation(
        system_battery_state, None, 0, ctypes.byref(state), ctypes.sizeof(state)
    )
    if status:
        raise OSError(f"CallNtPowerInformation returned {status}")
    return state.charges()


def apple_charges(registry: bytes) -> list[Charge]:
    """Read what `ioreg -arn AppleSmartBattery` prints; raises ValueError for no discharge."""
    try:
        (entry,) = plistlib.loads(registry)
        if entry["ExternalConnected"]:
            raise ValueError("the battery does not discharge")
        # Milliampere-hours; on Apple's processors CurrentCapacity is a percentage.
        left = entry.get("AppleRawCurrentCapacity", entry["CurrentCapacity"])
        return [Charge(float(left) / 1e3, float(entry["Voltage"]) / 1e3)]
    except (
        KeyError,
        TypeError,
        AttributeError,
        plistlib.InvalidFileException,
        ExpatError,
    ) as error:
        raise ValueError(f"the registry tells no battery: {error}") from error


def _apple_registry() -> bytes:
    command = ("/usr/sbin/ioreg", "-arn", "AppleSmartBattery")
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=5).stdout
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from error


class AppleBattery:
    """The battery of a Mac, read at most every two seconds."""

    def __init__(self, registry: Callable[[], bytes] | None = None) -> None:
        self._registry, self._read_at = registry or _apple_registry, -_APPLE_PERIOD_S
        self._known = list[Charge]()

    def __call__(self) -> list[Charge]:
        """Return its charge; raises OSError or ValueError where it does not discharge."""
        if time.monotonic() - self._read_at >= _APPLE_PERIOD_S:
            self._known, self._read_at = apple_charges(self._registry()), time.monotonic()
        return self._known


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _scope(supply: Path) -> str:
    try:
        return _text(supply / "scope")
    except OSError:
        return ""
