"""Which backend runs each stage fastest on this machine: measured once, then remembered.

    hb-run --tune --size 512x320 --frames 16

A measurement belongs to a bundle, a size, a machine and the packages installed; `auto` uses it and
falls back on the order of `devices.providers.AUTO` where there is none.
"""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend, precisions_of
from hummingbird_edge.runtime.devices.cpu import processor_name
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.files import read_record, record_path, write_record
from hummingbird_edge.runtime.placement.memory import readable, stage_bytes
from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.placement.plan import Placement, Reason, Sizes
from hummingbird_edge.runtime.placement.probe import environment, known_devices, probe
from hummingbird_edge.runtime.placement.trial import (
    MIN_INT8_SNR_DB,
    MIN_SNR_DB,
    run_trial,
    snr_db,
)

__all__ = ["Measurement", "recall", "recall_seconds", "tune"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A placement with its time."""

    placement: Placement
    median_s: float = 0.0
    load_s: float = 0.0
    snr_db: float = 0.0
    """Against the CPU in fp32."""
    failure: str = ""
    """Why it cannot be used, or nothing."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "stage": self.placement.stage,
            "device": self.placement.backend.device.name,
            "precision": str(self.placement.backend.precision),
            "median_s": self.median_s,
            "load_s": self.load_s,
            "snr_db": self.snr_db,
            "failure": self.failure,
        }


def tune(
    bundle: Bundle,
    sizes: Mapping[str, Sizes],
    report: Callable[[Measurement], None] = lambda _: None,
    notices: Notices | None = None,
    max_memory: int | None = None,
) -> dict[str, Measurement]:
    """Time every usable device and precision of every stage; returns and remembers the fastest.

    `report` hears each measurement. Placements that need more than `max_memory` bytes are left out.
    Stages are remembered one by one: what is done when it is stopped counts.
    """
    best: dict[str, Measurement] = {}
    notices = notices or Notices()
    path, kept = _record(bundle, sizes), True
    for stage, axes in sizes.items():
        for measured in _measure(bundle, stage, axes, notices.note, max_memory):
            report(measured)
            if measured.failure:
                continue
            if stage not in best or measured.median_s < best[stage].median_s:
                best[stage] = measured
        kept = write_record(path, {name: found.as_dict() for name, found in best.items()})
    if not kept:
        notices.warn(f"the measurements cannot be kept in {path.parent}: make room there")
    return best


def recall(bundle: Bundle, sizes: Mapping[str, Sizes]) -> dict[str, Backend]:
    """Return the fastest backend of each stage at these sizes, as far as it was measured."""
    found = {}
    for stage, entry in read_record(_record(bundle, sizes)).items():
        try:
            found[stage] = Backend.parse(str(entry["device"]), str(entry["precision"]))
        except (KeyError, TypeError, RequestError):
            return {}  # damaged
    return found


def recall_seconds(bundle: Bundle, sizes: Mapping[str, Sizes]) -> dict[str, float]:
    """Return the seconds that one run of each stage took there, as far as it was measured."""
    found = {}
    for stage, entry in read_record(_record(bundle, sizes)).items():
        seconds = entry.get("median_s") if isinstance(entry, dict) else None
        if isinstance(seconds, float) and 0 <= seconds < math.inf:
            found[stage] = seconds
    return found


def _measure(
    bundle: Bundle,
    stage: str,
    axes: Sizes,
    note: Callable[[str], None],
    max_memory: int | None,
) -> Iterator[Measurement]:
    """Time each backend; the CPU's most precise comes first, the others are compared with it."""
    cache = CompileCache.of_bundle(bundle.digest)
    entry = bundle.manifest.stage(stage)
    truth, graphs = None, entry.trusted
    exact = Precision.FP32 if Precision.FP32.graph in graphs else Precision.INT8
    reference = Backend(Device.parse("cpu"), exact)
    for backend in _backends(stage, graphs, reference):
        placement = Placement(stage, entry.kind, backend, axes, Reason.MEASURED)
        need = stage_bytes(placement, bundle.manifest.stages)
        if max_memory is not None and need > max_memory:
            reason = f"it needs {readable(need)}, more than --max-memory"
            yield Measurement(placement, failure=reason)
            continue
        try:
            trial = run_trial(bundle, stage, backend, axes, cache, notify=note)
        except DeviceError as error:
            yield Measurement(placement, failure=str(error))
            continue
        truth = trial.output if backend == reference else truth
        snr = 0.0 if truth is None else snr_db(trial.output, truth)
        least = MIN_INT8_SNR_DB if backend.precision is Precision.INT8 else MIN_SNR_DB
        wrong = "" if snr >= least else f"wrong numbers: {snr:.0f} dB against the CPU"
        if truth is None:
            wrong = "there is nothing to compare its numbers with: the CPU has none"
        median_s, load_s = round(trial.median_s, 5), round(trial.load_s, 3)
        yield Measurement(placement, median_s, load_s, snr, wrong)


def _backends(stage: str, graphs: Collection[str], reference: Backend) -> Iterator[Backend]:
    """Yield every device that works with every precision it has, after `reference`."""
    yield reference
    for name in known_devices():
        if name != "cpu" and not probe(name).works:
            continue
        device = Device.parse(name)
        for precision in precisions_of(stage, device, graphs):
            if (backend := Backend(device, precision)) != reference:
                yield backend


def _record(bundle: Bundle, sizes: Mapping[str, Sizes]) -> Path:
    machine = (environment(), processor_name(), os.cpu_count())
    return record_path("tuning", bundle.digest, sizes, *machine)
