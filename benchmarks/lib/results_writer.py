"""Write the rows of a benchmark as they come: a long run that ends early loses none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hummingbird_edge.benchmarks.lib.chart import chart_png
from hummingbird_edge.benchmarks.lib.machine import Machine
from hummingbird_edge.benchmarks.lib.record import Record, Row, require_finite, write_file
from hummingbird_edge.benchmarks.lib.subprocess_runner import run_in_subprocess
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import say
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PARTIAL_RESULTS", "ResultsWriter", "require_output"]

Task = TypeVar("Task")
_BUSY = 0.1
PARTIAL_RESULTS = "finished rows are in the file that ends in .partial.json"
"""What remains after Ctrl-C."""


def require_output(output: Path) -> None:
    """Raise OutputError where a result cannot be written, before hours of work."""
    if output.suffix != ".json":
        raise OutputError(f"--output is {output}: give a name that ends in .json")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent} is not a folder: create it, or choose another --output")


class ResultsWriter:
    """The results of one run of one benchmark."""

    def __init__(self, benchmark: str, bundle: Bundle | None, output: Path) -> None:
        """Begin; `output` has passed `require_output`."""
        self.benchmark, self.bundle, self.output = benchmark, bundle, output
        self.machine = Machine.here()  # as it is now: children load this source as they start
        self.rows: list[Row] = []

    @property
    def partial(self) -> Path:
        """The file of the rows until the run ends, in the same schema."""
        return self.output.with_suffix(".partial.json")

    def add(self, row: Row) -> Row:
        """Write a row, a failed one where a measure is NaN or infinite; report it on stderr."""
        row = require_finite(replace(row, metadata={"threads": usable_cores(), **row.metadata}))
        self.rows.append(row)
        self._record(self.rows).write(self.partial)
        say(f"{row.name}: {row.failure or 'done'}")
        return row

    def measure(
        self, measure: Callable[[Task], Row], task: Task, name: str, processes: int = 1
    ) -> Row:
        """Measure a row in subprocesses and write it."""
        return self.add(run_in_subprocess(measure, task, name, processes))

    def publish(self, rows: Sequence[Row], table: str, draw: Callable[["Axes"], None]) -> None:
        """Write `rows` to `output` (.json), the table (.md) and a chart (.png); print the table.

        Raises OutputError.
        """
        record = self._record(rows)
        text = f"{table}\n\n`{record.command}`\n{record.machine}; {_packages(record)}"
        if record.machine.busy > _BUSY:
            text += f"\nOther processes used {100 * record.machine.busy:.0f} % of the CPU just "
            text += "before: these figures are too slow for this machine."
        record.write(self.output)
        write_file(self.output.with_suffix(".md"), f"{text}\n".encode())
        print(text)
        title = f"{record.command}\n{record.machine}"
        write_file(self.output.with_suffix(".png"), chart_png(title, len(rows), draw))
        self.partial.unlink(missing_ok=True)

    def _record(self, rows: Sequence[Row]) -> Record:
        return Record.of(self.benchmark, self.bundle, list(rows), self.machine)


def _packages(record: Record) -> str:
    versions = record.machine.packages
    commit = f", commit {record.machine.commit}" if record.machine.commit else ""
    return ", ".join(f"{name} {version}" for name, version in versions.items()) + commit
