"""Does a device work? Tried out in a process of its own, because a driver may end the process.

A provider that is compiled in, listed and taken may still compute elsewhere, or wrongly. So the
built-in U-Net runs one small step there and is compared with the CPU:

    python -m hummingbird_edge.runtime.placement.probe openvino:GPU

Verdicts are remembered until a package, the system or its driver changes; `hb-run --list-devices`
tries everything anew.
"""

import json
import math
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired, run

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.drivers import driver_fingerprint
from hummingbird_edge.runtime.devices.packages import import_openvino
from hummingbird_edge.runtime.devices.plugins import has_plugin
from hummingbird_edge.runtime.devices.providers import PROVIDERS
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.files import read_record, record_path, write_record
from hummingbird_edge.runtime.placement.plan import MIN_SHARE
from hummingbird_edge.runtime.placement.trial import MIN_SNR_DB, run_trial, snr_db

__all__ = ["Verdict", "environment", "known_devices", "probe", "probe_all", "require_present"]

TIMEOUT_S = 120
_SIZES = {"frames": 2, "height": 4, "width": 4}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a device."""

    device: str
    works: bool
    reason: str
    """What was found, or what is wrong and what to do."""
    installed: bool = True
    share: float = 0.0
    """Share of the nodes that it took, in [0, 1]."""
    snr_db: float = 0.0
    """Of its outputs against the CPU's."""


def probe_all() -> list[Verdict]:
    """Try out every device there could be."""
    return [probe(name, fresh=True) for name in known_devices()]


def known_devices() -> list[str]:
    """Return the name of every device there could be, OpenVINO's as it lists them."""
    names = list(PROVIDERS)
    if has_plugin("winml"):  # by itself it takes a GPU first
        names.append("winml:NPU")
    if find_spec("openvino") is None:
        return names
    return names + [f"openvino:{target}" for target in _listed() if target != "CPU"]


def _listed() -> list[str]:
    """Return OpenVINO's devices; none where that fails."""
    # Listing loads every driver, and one may end the process.
    with suppress(TimeoutExpired, IndexError, ValueError, TypeError):
        return [*json.loads(_in_subprocess("targets").stdout.strip().splitlines()[-1])]
    return []


@cache
def require_present(device: Device) -> None:
    """Raise DeviceError for a device of OpenVINO's that is not here.

    Other engines' are known by their provider, and loading says the rest.
    """
    if device.engine == "openvino" and device.needs_proof and (targets := _listed()):
        device.require_listed(targets)


def probe(name: str, fresh: bool = False) -> Verdict:
    """Return whether the device called `name` works; raises RequestError for no such name.

    What was found before is believed unless `fresh`, or packages or the system have changed.
    """
    device = Device.parse(name)
    try:
        device.require_installed()
    except DeviceError as error:
        return Verdict(name, False, str(error), installed=False)
    known = _recall(name)
    if known is not None and not fresh:
        return known
    verdict = _try_out(name)
    _remember(verdict)
    return verdict


def _in_subprocess(argument: str) -> CompletedProcess[str]:
    """Run this module in a process of its own; raises TimeoutExpired."""
    command = [sys.executable, "-m", "hummingbird_edge.runtime.placement.probe", argument]
    # Python looks for modules in the current folder first: in one that has none.
    # Drivers write in whatever encoding they like.
    return run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT_S,
        cwd=BUILTIN,
    )


def _try_out(name: str) -> Verdict:
    try:
        done = _in_subprocess(name)
    except TimeoutExpired:
        return Verdict(name, False, f"no answer within {TIMEOUT_S} s: check the driver")
    try:
        return Verdict(**json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        how = f"the probe ended with {done.returncode} ({last[:120]})"
        return Verdict(name, False, f"{how}: check the driver")


def examine(name: str) -> Verdict:
    """Run one small U-Net step on the device and on the CPU, in this process."""
    bundle, device = Bundle.open(BUILTIN), Device.parse(name)
    truth = run_trial(bundle, "unet", Backend(Device.parse("cpu")), _SIZES, runs=0).output
    try:
        backend = Backend(device, device.precisions()[0])
        trial = run_trial(bundle, "unet", backend, _SIZES, runs=0)
    except DeviceError as error:
        return Verdict(name, False, str(error))
    snr, share = snr_db(trial.output, truth), trial.share
    if math.isinf(snr):
        return Verdict(name, False, "it computes NaN: update the driver", share=share)
    found = f"{100 * share:.0f} % of the nodes there, {snr:.0f} dB against the CPU"
    if snr < MIN_SNR_DB:
        reason = f"its numbers are wrong ({found}): update the driver"
    elif share < MIN_SHARE:
        reason = f"it leaves most of the work to the CPU ({found})"
    else:
        return Verdict(name, True, found, share=share, snr_db=snr)
    return Verdict(name, False, reason, share=share, snr_db=snr)


@cache
def environment() -> Mapping[str, str]:
    """Return what a verdict, or a measurement, depends on: packages, system, driver."""
    packages = {
        name: found.version
        for found in distributions()
        if (name := (found.metadata["Name"] or "").lower()).startswith(
            ("onnxruntime", "openvino", "windowsml", "hummingbird")
        )
    }
    return {**packages, "system": platform.platform(), "drivers": driver_fingerprint()}


def _record() -> Path:
    return record_path("probes", environment())


def _recall(name: str) -> Verdict | None:
    try:
        return Verdict(**read_record(_record())[name])
    except (KeyError, TypeError):
        return None


def _remember(verdict: Verdict) -> None:
    # A cache that cannot be written costs a second probe, nothing else.
    write_record(_record(), {**read_record(_record()), verdict.device: asdict(verdict)})


def _targets() -> list[str]:
    """Return OpenVINO's devices, in this process."""
    return list(import_openvino().Core().available_devices)


if __name__ == "__main__":
    asked = sys.argv[1]
    print(json.dumps(_targets() if asked == "targets" else asdict(examine(asked))))
