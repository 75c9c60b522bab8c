"""What a benchmark found, in the one schema that all of them write and `compare.py` reads."""

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

__all__ = ["SCHEMA", "Record", "Row", "Spread", "sound", "write_beside"]

SCHEMA = "hummingbird-edge/benchmark/1"


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    p95: float
    """Of the measurements; the largest where there are fewer than twenty."""
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: tuple[float, ...]) -> "Spread":
        """Return what these come to; raises ValueError for none."""
        if not values:
            raise ValueError("there is nothing to take a median of")
        ranked = sorted(values)
        p95 = ranked[math.ceil(0.95 * len(ranked)) - 1]
        return cls(statistics.median(ranked), p95, ranked[0], ranked[-1], len(ranked))

    @property
    def range(self) -> float:
        """From the least to the most."""
        return self.most - self.least


@dataclass(frozen=True, slots=True)
class Row:
    """One way of doing something."""

    name: str
    """Tells it from all other rows of the record; `compare.py` pairs rows by it."""
    measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By name with its unit at the end (`unet_step_s`, `peak_mib`, `agreement_db`)."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Engine, placement, sizes: whatever says how it was done."""
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
        """Return the record of what was measured just now, on `machine` or here."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        known = {} if bundle is None else {"name": bundle.manifest.name, "sha256": bundle.digest}
        command = shlex.join(["python", f"benchmarks/{benchmark}.py", *_arguments()])
        here = machine or Machine.here()
        return cls(benchmark, command, now, here, known, tuple(rows))

    def write(self, path: Path) -> None:
        """Write it to `path`, beside and renamed; raises OutputError."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        write_beside(path, f"{text}\n".encode())

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read what `write` wrote; raises RequestError for anything else."""
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{path} cannot be read as a benchmark's result: {error}") from error
        schema = entries.get("schema") if isinstance(entries, dict) else None
        if schema != SCHEMA:
            raise RequestError(
                f"{path} has the schema {schema!r}, not {SCHEMA!r}: measure again with this version"
            )
        try:
            machine = _machine(entries["machine"])
            rows = tuple(_row(entry) for entry in entries["rows"])
            bundle = {str(key): str(value) for key, value in entries["bundle"].items()}
            texts = {name: str(entries[name]) for name in ("benchmark", "command", "created")}
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise RequestError(
                f"{path} is not a whole result ({error}): measure again with this version"
            ) from error
        return cls(**texts, machine=machine, bundle=bundle, rows=rows)


def sound(row: Row) -> Row:
    """Return the row, or a failed one where a measure came out as no number."""
    odd = [key for key, values in row.measures.items() if not all(map(math.isfinite, values))]
    if not odd:
        return row
    return Row(
        row.name, facts=row.facts, failure=f"its {', '.join(odd)} came out as NaN or without end"
    )


def write_beside(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it; raises OutputError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}): choose another file") from error


def _row(entry: dict[str, Any]) -> Row:
    measures = {
        str(name): tuple(float(value) for value in values)
        for name, values in entry["measures"].items()
    }
    facts = {str(key): value for key, value in entry["facts"].items()}
    return Row(str(entry["name"]), measures, facts, str(entry["failure"]))


def _machine(entry: dict[str, Any]) -> Machine:
    known = {f.name: entry[f.name] for f in fields(Machine) if f.name != "busy"}
    texts = {name: str(value) for name, value in known.items() if isinstance(value, str)}
    return Machine(
        **{
            **known,
            **texts,
            "cores": int(entry["cores"]),
            "memory_gib": float(entry["memory_gib"]),
            "busy": float(entry.get("busy", 0.0)),  # results before had none
            "gpus": tuple(str(name) for name in entry["gpus"]),
            "packages": {str(name): str(value) for name, value in entry["packages"].items()},
        }
    )


def _arguments() -> list[str]:
    """Return this command's arguments: without the output, of paths the last part alone."""
    given, kept = iter(sys.argv[1:]), []
    for argument in given:
        if argument == "--output":
            next(given, None)
        elif not argument.startswith("--output="):
            kept.append(Path(argument).name if Path(argument).is_absolute() else argument)
    return kept
