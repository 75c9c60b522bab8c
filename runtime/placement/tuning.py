"""Which way of running each stage is fastest on this machine: measured once, then remembered.

    hb-run --tune --size 512x320 --frames 16

A measurement belongs to a bundle, a size, a machine and the packages installed; `auto` asks for it
and falls back on the ladder of `device` where there is none.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend, precisions_of
from hummingbird_edge.runtime.devices.cpu import processor_name
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.engines.compile_cache import compiled_folder
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.placement.memory import readable, stage_bytes
from hummingbird_edge.runtime.placement.plan import Placement
from hummingbird_edge.runtime.placement.probe import environment, known_devices, probe
from hummingbird_edge.runtime.placement.trial import (
    MIN_INT8_SNR_DB,
    MIN_SNR_DB,
    run_trial,
    snr_db,
)

__all__ = ["Measured", "recall", "tune"]

Sizes = Mapping[str, Mapping[str, int]]
"""Stage name to the sizes of its free axes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of running one stage."""

    stage: str
    device: str
    precision: str
    median_s: float
    load_s: float
    snr_db: float
    """Against the CPU in fp32."""
    failure: str = ""
    """Why it cannot be taken, or nothing."""

    @property
    def backend(self) -> Backend:
        """The way itself."""
        return Backend(Device.parse(self.device), self.precision)


def tune(
    bundle: Bundle,
    sizes: Sizes,
    report: Callable[[Measured], None] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
    max_memory: int | None = None,
) -> dict[str, Measured]:
    """Time every usable device and precision of every stage; returns and remembers the winners.

    `report` hears each measurement, `notify` what takes long. Ways that need more than `max_memory`
    bytes are left out. Stages are remembered one by one: what is done when it is stopped counts.
    """
    best: dict[str, Measured] = {}
    for stage, axes in sizes.items():
        for measured in _measure(bundle, stage, axes, notify, max_memory):
            report(measured)
            if measured.failure:
                continue
            if stage not in best or measured.median_s < best[stage].median_s:
                best[stage] = measured
        _remember(bundle, sizes, best)
    return best


def recall(bundle: Bundle, sizes: Sizes) -> dict[str, Measured]:
    """Return the winners for these sizes, or nothing where they were not measured."""
    try:
        known = json.loads(_record(bundle, sizes).read_text(encoding="utf-8"))
        return {stage: Measured(**entry) for stage, entry in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _measure(
    bundle: Bundle,
    stage: str,
    axes: Mapping[str, int],
    notify: Callable[[str], None],
    max_memory: int | None,
) -> Iterator[Measured]:
    """Time each way; the CPU's most precise comes first, the others are held to its numbers."""
    cache = compiled_folder(bundle.digest)
    truth, graphs = None, bundle.manifest.trusted(stage)
    exact = Backend(Device.parse("cpu"), "fp32" if "float32" in graphs else "int8")
    for backend in _ways(stage, graphs, exact):
        names = stage, backend.device.name, backend.precision
        need = stage_bytes(Placement(stage, backend, "measured", axes), bundle.manifest.stages)
        if max_memory is not None and need > max_memory:
            reason = f"it needs {readable(need)}, more than --max-memory"
            yield Measured(*names, 0.0, 0.0, 0.0, reason)
            continue
        try:
            trial = run_trial(bundle, stage, backend, axes, cache, notify=notify)
        except DeviceError as error:
            yield Measured(*names, 0.0, 0.0, 0.0, str(error))
            continue
        truth = trial.output if backend == exact else truth
        snr = 0.0 if truth is None else snr_db(trial.output, truth)
        least = MIN_INT8_SNR_DB if backend.precision == "int8" else MIN_SNR_DB
        wrong = "" if snr >= least else f"wrong numbers: {snr:.0f} dB against the CPU"
        if truth is None:
            wrong = "there is nothing to hold its numbers to: the CPU has none"
        yield Measured(*names, round(trial.median_s, 5), round(trial.load_s, 3), snr, wrong)


def _ways(stage: str, graphs: Collection[str], exact: Backend) -> Iterator[Backend]:
    """Yield every device that works with every precision it has, after `exact`."""
    yield exact
    for name in known_devices():
        if name != "cpu" and not probe(name).works:
            continue
        device = Device.parse(name)
        for precision in precisions_of(stage, device, graphs):
            if (backend := Backend(device, precision)) != exact:
                yield backend


def _record(bundle: Bundle, sizes: Sizes) -> Path:
    from platformdirs import user_cache_path

    facts = [bundle.digest, sizes, environment(), processor_name(), os.cpu_count()]
    key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return user_cache_path("hummingbird-edge") / "tuning" / f"{key}.json"


def _remember(bundle: Bundle, sizes: Sizes, best: Mapping[str, Measured]) -> None:
    path = _record(bundle, sizes)
    partial = path.with_suffix(f".{os.getpid()}")
    text = json.dumps({stage: asdict(measured) for stage, measured in best.items()}, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DeviceError(
            f"the measurement cannot be kept in {path.parent} ({error}): make room there"
        ) from error
