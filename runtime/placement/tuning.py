"""Which backend runs each stage fastest on this machine, and which uses the least energy.

    hb-run --tune --size 512x320 --frames 16
    hb-run --tune --low-power --size 512x320 --frames 16

It is measured once, then remembered. A measurement belongs to a bundle, a size, a machine, the
packages installed and a number of threads; `auto` uses it and falls back on the order of
`devices.providers.AUTO` where there is none.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend, precisions_of
from hummingbird_edge.runtime.devices.cpu import processor_name
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.devices.energy import find_meter
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
    MIN_TRIAL_S,
    Trial,
    run_trial,
    snr_db,
)

__all__ = ["Measurement", "recall", "recall_leanest", "recall_seconds", "tune"]

_LEANEST = "leanest"
"""Key of a stage's measurement with the fewest joules, inside that of the fastest."""
_MANY_RUNS = 100_000
"""More than fit in the seconds that a coarse meter needs."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A placement with its time and energy."""

    placement: Placement
    median_s: float = 0.0
    load_s: float = 0.0
    snr_db: float = 0.0
    """Against the CPU in fp32."""
    failure: str = ""
    """Why it cannot be used, or nothing."""
    joules: float | None = None
    """Of one run; None where the system does not tell, or not of this device."""

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
            "joules": self.joules,
        }


def tune(
    bundle: Bundle,
    sizes: Mapping[str, Sizes],
    report: Callable[[Measurement], None] = lambda _: None,
    notices: Notices | None = None,
    max_memory: int | None = None,
    threads: int | None = None,
) -> dict[str, Measurement]:
    """Time every usable device and precision of every stage; returns and remembers the best.

    That is the fastest one. With `threads`, those of `--low-power`, each backend computes with so
    many and is measured for as long as the energy meter needs, and the best one uses the fewest
    joules where they are known of all. `report` hears each measurement. Placements that need more
    than `max_memory` bytes are left out. Stages are remembered one by one: what is done when it is
    stopped counts.
    """
    best: dict[str, Measurement] = {}
    entries: dict[str, dict[str, object]] = {}
    notices = notices or Notices()
    path, kept = _record(bundle, sizes, threads), True
    for stage, axes in sizes.items():
        usable = []
        for measured in _measure(bundle, stage, axes, notices.note, max_memory, threads):
            report(measured)
            if not measured.failure:
                usable.append(measured)
        if usable:
            fastest, leanest = min(usable, key=lambda each: each.median_s), _leanest(usable)
            best[stage] = fastest if threads is None else leanest or fastest
            entries[stage] = {**fastest.as_dict(), _LEANEST: leanest and leanest.as_dict()}
        kept = write_record(path, entries)
    if not kept:
        notices.warn(f"the measurements cannot be kept in {path.parent}: make room there")
    return best


def _leanest(usable: Iterable[Measurement]) -> Measurement | None:
    """Return the one that used the fewest joules; None unless they are known of all."""
    known = {each.joules: each for each in usable}
    return None if None in known else known[min(filter(None, known))]


def recall(
    bundle: Bundle, sizes: Mapping[str, Sizes], threads: int | None = None
) -> dict[str, Backend]:
    """Return the fastest backend of each stage at these sizes, as far as it was measured.

    What was measured with so many `threads` counts more than what was with all.
    """
    found = {}
    for stage, entry in _entries(bundle, sizes, threads):
        try:
            found[stage] = _backend(entry)
        except (KeyError, TypeError, RequestError):
            return {}  # damaged
    return found


def recall_seconds(
    bundle: Bundle, sizes: Mapping[str, Sizes], threads: int | None = None
) -> dict[str, float]:
    """Return the seconds of one run of each stage there, as far as it was measured."""
    found = {}
    for stage, entry in _entries(bundle, sizes, threads):
        seconds = entry.get("median_s") if isinstance(entry, dict) else None
        if isinstance(seconds, float) and 0 <= seconds < math.inf:
            found[stage] = seconds
    return found


def recall_leanest(bundle: Bundle, sizes: Mapping[str, Sizes], threads: int) -> dict[str, Backend]:
    """Return the backend of each stage that used the fewest joules, as far as it was measured.

    What was measured with so many threads counts more than what was with all.
    """
    found = {}
    for stage, entry in _entries(bundle, sizes, threads):
        with suppress(KeyError, TypeError, RequestError):  # not known, or damaged
            found[stage] = _backend(entry[_LEANEST])
    return found


def _entries(
    bundle: Bundle, sizes: Mapping[str, Sizes], threads: int | None
) -> Iterator[tuple[str, Any]]:
    """Yield each stage with what was written of it: first with all threads, then with `threads`."""
    for count in dict.fromkeys((None, threads)):
        yield from read_record(_record(bundle, sizes, count)).items()


def _backend(entry: Mapping[str, object]) -> Backend:
    return Backend.parse(str(entry["device"]), str(entry["precision"]))


def _measure(
    bundle: Bundle,
    stage: str,
    axes: Sizes,
    note: Callable[[str], None],
    max_memory: int | None,
    threads: int | None,
) -> Iterator[Measurement]:
    """Time each backend; the CPU's most precise comes first, the others are compared with it."""
    cache = CompileCache.of_bundle(bundle.digest)
    entry = bundle.manifest.stage(stage)
    truth, graphs = None, entry.trusted
    exact = Precision.FP32 if Precision.FP32.graph in graphs else Precision.INT8
    reference = Backend(Device.parse("cpu"), exact)
    for plain in _backends(stage, graphs, reference):
        backend = replace(plain, threads=threads)
        placement = Placement(stage, entry.kind, backend, axes, Reason.MEASURED)
        room = 0 if cache is None else cache.room()
        need = stage_bytes(placement, bundle.manifest.stages, room)
        if max_memory is not None and need > max_memory:
            reason = f"it needs {readable(need)}, more than --max-memory"
            yield Measurement(placement, failure=reason)
            continue
        try:
            trial = _try(bundle, placement, cache, note)
        except DeviceError as error:
            yield Measurement(placement, failure=str(error))
            continue
        truth = trial.output if plain == reference else truth
        snr = 0.0 if truth is None else snr_db(trial.output, truth)
        least = MIN_INT8_SNR_DB if backend.precision is Precision.INT8 else MIN_SNR_DB
        wrong = "" if snr >= least else f"wrong numbers: {snr:.0f} dB against the CPU"
        if truth is None:
            wrong = "there is nothing to compare its numbers with: the CPU has none"
        median_s, load_s = round(trial.median_s, 5), round(trial.load_s, 3)
        yield Measurement(placement, median_s, load_s, snr, wrong, trial.joules)


def _try(
    bundle: Bundle, placement: Placement, cache: CompileCache | None, note: Callable[[str], None]
) -> Trial:
    """Run a stage a few times; with few threads as long as the meter of energy needs."""
    stage, backend, sizes, meter = placement.stage, placement.backend, placement.sizes, find_meter()
    if backend.threads is None or meter.min_seconds <= MIN_TRIAL_S:
        return run_trial(bundle, stage, backend, sizes, cache, notify=note, meter=meter)
    note(f"measuring {stage} on {backend}: the battery tells after {meter.min_seconds:.0f} s")
    return run_trial(
        bundle, stage, backend, sizes, cache, _MANY_RUNS, meter.min_seconds, note, meter
    )


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


def _record(bundle: Bundle, sizes: Mapping[str, Sizes], threads: int | None = None) -> Path:
    machine = (environment(), processor_name(), os.cpu_count())
    few = () if threads is None else (threads,)
    return record_path("tuning", bundle.digest, sizes, *machine, *few)
