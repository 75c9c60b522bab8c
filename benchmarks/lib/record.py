"""The result of a benchmark, in the one schema that all scripts write and `compare.py` reads."""

import json
import math
import shlex
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hummingbird_edge.benchmarks.lib.machine import Machine
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.files import atomic_path

__all__ = ["SCHEMA", "Record", "Row", "Spread", "require_finite", "write_file"]

SCHEMA = "hummingbird-edge/benchmark/2"
_METADATA_KEYS = {"hummingbird-edge/benchmark/1": "facts", SCHEMA: "metadata"}
"""By the schemas that are read, the key of a row's metadata."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A summary of repeated measurements."""

    median: float
    p95: float
    """The largest measurement where there are fewer than twenty."""
    min: float
    max: float
    count: int

    @classmethod
    def of(cls, values: tuple[float, ...]) -> "Spread":
        """Summarize `values`; raises ValueError for none."""
        if not values:
            raise ValueError("there is nothing to take a median of")
        ranked = sorted(values)
        p95 = ranked[math.ceil(0.95 * len(ranked)) - 1]
        return cls(statistics.median(ranked), p95, ranked[0], ranked[-1], len(ranked))

    @property
    def range(self) -> float:
        """The largest minus the smallest."""
        return self.max - self.min


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements of one configuration."""

    name: str
    """Unique in the record; `compare.py` pairs rows by it."""
    measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By name, which ends in the unit (`unet_step_s`, `video_j`, `peak_mib`, `agreement_db`).

    Absent or without values where the system does not tell; older results have fewer."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """How it was measured: engine, placement, sizes."""
    failure: str = ""
    """Why there are no measurements."""

    def __getitem__(self, measure: str) -> Spread:
        return Spread.of(self.measures[measure])

    def median(self, measure: str) -> float:
        """Return the median of a measure, or NaN where it was not taken."""
        return self[measure].median if self.measures.get(measure) else math.nan


@dataclass(frozen=True, slots=True)
class Record:
    """One run of one benchmark."""

    benchmark: str
    command: str
    created: str
    """UTC, ISO 8601."""
    machine: Machine
    bundle: Mapping[str, str]
    """`name` and `sha256`; empty where no bundle was used."""
    rows: tuple[Row, ...]
    schema: str = SCHEMA

    @classmethod
    def of(
        cls, benchmark: str, bundle: Bundle | None, rows: list[Row], machine: Machine | None = None
    ) -> "Record":
        """Return the record of `rows`, measured just now on `machine`, else on this one."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        known = {} if bundle is None else {"name": bundle.manifest.name, "sha256": bundle.digest}
        command = shlex.join(["python", f"benchmarks/{benchmark}.py", *_arguments()])
        here = machine or Machine.here()
        return cls(benchmark, command, now, here, known, tuple(rows))

    def write(self, path: Path) -> None:
        """Write it to `path` atomically; raises OutputError."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        write_file(path, f"{text}\n".encode())

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read a record of this schema or the one before; raises RequestError for other files."""
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{path} cannot be read as a benchmark's result: {error}") from error
        schema = entries.get("schema") if isinstance(entries, dict) else None
        if schema not in _METADATA_KEYS:
            raise RequestError(
                f"{path} has the schema {schema!r}, not {SCHEMA!r}: measure again with this version"
            )
        try:
            machine = _machine(entries["machine"])
            rows = tuple(_row(entry, _METADATA_KEYS[schema]) for entry in entries["rows"])
            bundle = {str(key): str(value) for key, value in entries["bundle"].items()}
            texts = {name: str(entries[name]) for name in ("benchmark", "command", "created")}
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise RequestError(
                f"{path} is not a whole result ({error}): measure again with this version"
            ) from error
        return cls(**texts, machine=machine, bundle=bundle, rows=rows)


def require_finite(row: Row) -> Row:
    """Return the row, or a failed one where a measure is NaN or infinite."""
    odd = [key for key, values in row.measures.items() if not all(map(math.isfinite, values))]
    if not odd:
        return row
    failure = f"its {', '.join(odd)} came out as NaN or infinite"
    return Row(row.name, metadata=row.metadata, failure=failure)


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically; raises OutputError."""
    try:
        with atomic_path(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}): choose another file") from error


def _row(entry: dict[str, Any], metadata_key: str) -> Row:
    measures = {
        str(name): tuple(float(value) for value in values)
        for name, values in entry["measures"].items()
    }
    metadata = {str(key): value for key, value in entry[metadata_key].items()}
    return Row(str(entry["name"]), measures, metadata, str(entry["failure"]))


def _machine(entry: dict[str, Any]) -> Machine:
    known = {f.name: entry[f.name] for f in fields(Machine) if f.name != "busy"}
    texts = {name: str(value) for name, value in known.items() if isinstance(value, str)}
    return Machine(
        **{
            **known,
            **texts,
            "cores": int(entry["cores"]),
            "memory_gib": float(entry["memory_gib"]),
            "busy": float(entry.get("busy", 0.0)),  # older results have none
            "gpus": tuple(str(name) for name in entry["gpus"]),
            "packages": {str(name): str(value) for name, value in entry["packages"].items()},
        }
    )


def _arguments() -> list[str]:
    """Return the arguments of this command without --output; absolute paths by name alone."""
    given, kept = iter(sys.argv[1:]), []
    for argument in given:
        if argument == "--output":
            next(given, None)
        elif not argument.startswith("--output="):
            kept.append(Path(argument).name if Path(argument).is_absolute() else argument)
    return kept
