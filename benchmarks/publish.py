"""A record's three forms: JSON for programs, Markdown and a picture for people."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hummingbird_edge.benchmarks.record import Record, Row, write_beside
from hummingbird_edge.runtime.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars", "markdown", "publish", "require_output"]


def require_output(output: Path) -> None:
    """Raise OutputError where a result cannot be written, before hours of work."""
    if output.suffix != ".json":
        raise OutputError(f"--output is {output}: give a name that ends in .json")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent} is no folder: make it, or choose another --output")


def publish(record: Record, table: str, draw: Callable[["Axes"], None], output: Path) -> None:
    """Print `table`, and write `output` (.json), and .md and .png beside it; raises OutputError."""
    text = f"{table}\n\n`{record.command}`\n{record.machine}; {_packages(record)}"
    print(text)
    record.write(output)
    write_beside(output.with_suffix(".md"), f"{text}\n".encode())
    write_beside(output.with_suffix(".png"), _picture(record, draw))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; short rows are filled up."""
    lines = [list(header), ["---"] * len(header)]
    lines += [[*row, *[""] * (len(header) - len(row))] for row in rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def bars(
    axes: "Axes", rows: Sequence[Row], measures: Sequence[str], labels: Sequence[str], unit: str
) -> None:
    """Draw a bar a row of the medians of `measures`, stacked; failed rows are left out."""
    rows = [row for row in rows if not row.failure][::-1]
    names, start = [row.name for row in rows], [0.0] * len(rows)
    for measure, label in zip(measures, labels, strict=True):
        widths = [row.median(measure) if row.measures.get(measure) else 0.0 for row in rows]
        axes.barh(names, widths, left=start, label=label)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axes.set_xlabel(unit)
    if len(measures) > 1:
        axes.legend(fontsize="small")


def _picture(record: Record, draw: Callable[["Axes"], None]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title(f"{record.command}\n{record.machine}", fontsize="small", loc="left")
    png = io.BytesIO()
    figure.savefig(png, dpi=110, metadata={"Software": None})
    return png.getvalue()


def _packages(record: Record) -> str:
    known = record.machine.packages
    commit = f", commit {record.machine.commit}" if record.machine.commit else ""
    return ", ".join(f"{name} {version}" for name, version in known.items()) + commit
