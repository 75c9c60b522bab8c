"""The rows of a run as they come, on disk at once: a long run that ends early loses none."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hummingbird_edge.benchmarks.lib.apart import measure_apart
from hummingbird_edge.benchmarks.lib.machine import Machine
from hummingbird_edge.benchmarks.lib.record import Record, Row, sound, write_beside
from hummingbird_edge.benchmarks.lib.table import picture
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["KEPT", "Ledger", "require_output"]

Task = TypeVar("Task")
_BUSY = 0.1
KEPT = "rows that were done are in the file that ends in .partial.json"
"""What Ctrl-C leaves."""


def require_output(output: Path) -> None:
    """Raise OutputError where a result cannot be written, before hours of work."""
    if output.suffix != ".json":
        raise OutputError(f"--output is {output}: give a name that ends in .json")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent} is no folder: make it, or choose another --output")


class Ledger:
    """One run of one benchmark, from its first row to its files."""

    def __init__(self, benchmark: str, bundle: Bundle | None, output: Path) -> None:
        """Begin; `output` is what `require_output` lets pass."""
        self.benchmark, self.bundle, self.output = benchmark, bundle, output
        self.machine = Machine.here()  # as it is now: children load this source as they start
        self.rows: list[Row] = []

    @property
    def partial(self) -> Path:
        """Where the rows lie until the run is at its end, in the same schema."""
        return self.output.with_suffix(".partial.json")

    def add(self, row: Row) -> Row:
        """Keep a row, or that its measures are no numbers, and say on standard error so."""
        row = sound(replace(row, facts={"threads": usable_cores(), **row.facts}))
        self.rows.append(row)
        self._record(self.rows).write(self.partial)
        print(f"{row.name}: {row.failure or 'done'}", file=sys.stderr, flush=True)
        return row

    def measure(self, measure: Callable[[Task], Row], task: Task, name: str) -> Row:
        """Measure a row in a process of its own, and keep it."""
        return self.add(measure_apart(measure, task, name))

    def publish(self, rows: Sequence[Row], table: str, draw: Callable[["Axes"], None]) -> None:
        """Write `rows` as `output` (.json), `table` and a picture beside it (.md, .png), print.

        Raises OutputError.
        """
        record = self._record(rows)
        text = f"{table}\n\n`{record.command}`\n{record.machine}; {_packages(record)}"
        if record.machine.busy > _BUSY:
            text += f"\nOther work took {100 * record.machine.busy:.0f} % of the processors' time "
            text += "just before: these figures are none of this machine alone."
        record.write(self.output)
        write_beside(self.output.with_suffix(".md"), f"{text}\n".encode())
        print(text)
        title = f"{record.command}\n{record.machine}"
        write_beside(self.output.with_suffix(".png"), picture(title, len(rows), draw))
        self.partial.unlink(missing_ok=True)

    def _record(self, rows: Sequence[Row]) -> Record:
        return Record.of(self.benchmark, self.bundle, list(rows), self.machine)


def _packages(record: Record) -> str:
    known = record.machine.packages
    commit = f", commit {record.machine.commit}" if record.machine.commit else ""
    return ", ".join(f"{name} {version}" for name, version in known.items()) + commit
