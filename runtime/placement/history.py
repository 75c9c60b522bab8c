"""What earlier videos took on this machine: seconds and memory of each stage, by shape.

One record per bundle in the user's cache; it belongs to the machine and the packages installed.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.cpu import processor_name
from hummingbird_edge.runtime.files import read_record, record_path, write_record
from hummingbird_edge.runtime.placement.plan import Placement
from hummingbird_edge.runtime.placement.probe import environment

__all__ = ["History", "StageRecord"]

_MOST = 300
"""Shapes that are remembered; beyond these the oldest go."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """How a stage did with one placement."""

    part_s: float
    """Seconds of a part: a prompt, a step, a chunk of frames; the mean over a video."""
    load_s: float
    """Seconds to load what was compiled before; 0 where that never happened."""
    compile_s: float = 0.0
    """Seconds to load and compile, the first time; 0 where that never happened."""
    peak_bytes: int = 0
    """Most memory of the process until the stage was done."""


@dataclass(frozen=True, slots=True)
class History:
    """The records of one bundle."""

    records: dict[str, StageRecord]
    """By `key_of` a placement."""

    @classmethod
    def of(cls, bundle: Bundle) -> "History":
        """Read what is remembered; a damaged entry counts as none."""
        found = {}
        for key, entry in read_record(_path(bundle)).items():
            try:
                record = StageRecord(**entry)
            except TypeError:
                continue
            if _is_plausible(record):
                found[key] = record
        return cls(found)

    def find(self, placement: Placement) -> StageRecord | None:
        """Return the record of this very placement."""
        return self.records.get(key_of(placement))

    def similar(self, placement: Placement) -> Iterable[tuple[dict[str, int], StageRecord]]:
        """Yield sizes and records of the same stage and backend at other sizes, newest first."""
        start = _prefix(placement)
        for key, record in reversed(self.records.items()):
            if key.startswith(start):
                yield json.loads(key[len(start) :])["sizes"], record

    def add(self, bundle: Bundle, new: Iterable[tuple[Placement, StageRecord]]) -> None:
        """Remember; a cache that cannot be written costs a worse promise, nothing else."""
        # Another process may have added its own since.
        records = {**self.of(bundle).records}
        for placement, record in new:
            key = key_of(placement)
            known = records.pop(key, None)  # the newest comes last
            records[key] = record if known is None else _merged(known, record)
        kept = list(records.items())[-_MOST:]
        write_record(_path(bundle), {key: asdict(record) for key, record in kept})


def key_of(placement: Placement) -> str:
    """Return what tells a placement from others in the record."""
    tiles = len(placement.tiles) if placement.tiles else 1
    shape = {"sizes": dict(sorted(placement.sizes.items())), "tiles": tiles}
    return _prefix(placement) + json.dumps(shape, sort_keys=True)


def _prefix(placement: Placement) -> str:
    return f"{placement.stage} {placement.backend} "


def _merged(known: StageRecord, new: StageRecord) -> StageRecord:
    """Return the newest of each number: the machine may be slower today."""
    return StageRecord(
        new.part_s,
        new.load_s or known.load_s,
        new.compile_s or known.compile_s,
        max(known.peak_bytes, new.peak_bytes),
    )


def _is_plausible(record: StageRecord) -> bool:
    numbers = (record.part_s, record.load_s, record.compile_s, record.peak_bytes)
    return all(
        isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < math.inf
        for n in numbers
    )


def _path(bundle: Bundle) -> Path:
    return record_path("history", bundle.digest, environment(), processor_name(), os.cpu_count())
