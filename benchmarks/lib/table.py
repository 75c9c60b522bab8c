"""Rows for people: a table in Markdown, bars in a picture."""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hummingbird_edge.benchmarks.lib.record import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars", "by_row", "markdown", "picture", "shown"]

_SHAPE = r", \d+ frames of \d+x\d+"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; short rows are filled up."""
    lines = [list(header), ["---"] * len(header)]
    lines += [[*row, *[""] * (len(header) - len(row))] for row in rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def by_row(
    header: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], Sequence[str]]
) -> str:
    """Return a table, a line a row: its name and what `cells` makes of it, or why it failed."""
    lines = [
        [row.name, *([f"failed: {row.failure}"] if row.failure else cells(row))] for row in rows
    ]
    return markdown(["", *header], lines)


def shown(value: float, form: str = "{}") -> str:
    """Return a figure in a form such as `{:.1f} dB`; nothing for NaN, which was not measured."""
    return "" if math.isnan(value) else form.format(value)


def bars(
    axes: "Axes", rows: Sequence[Row], measures: Sequence[str], labels: Sequence[str], unit: str
) -> None:
    """Draw a bar a row of the medians of `measures`, stacked; failed rows are left out."""
    rows = [row for row in rows if not row.failure][::-1]
    names, start = [row.name for row in rows], [0.0] * len(rows)
    shapes = {shape for name in names for shape in re.findall(_SHAPE, name)}
    if len(shapes) == 1:  # what all have in common is said once
        names = [re.sub(_SHAPE, "", name) for name in names]
        unit = f"{unit}{shapes.pop()}"
    for measure, label in zip(measures, labels, strict=True):
        widths = [row.median(measure) if row.measures.get(measure) else 0.0 for row in rows]
        axes.barh(names, widths, left=start, label=label)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axes.set_xlabel(unit)
    if len(measures) > 1:
        axes.legend(fontsize="small")


def picture(title: str, rows: int, draw: Callable[["Axes"], None]) -> bytes:
    """Return a PNG of what `draw` draws, high enough for as many `rows`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, max(3.6, 1.5 + 0.22 * rows)), layout="constrained")
    draw(figure.subplots())
    figure.suptitle(title, x=0.01, ha="left", fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, dpi=110, metadata={"Software": None})
    return png.getvalue()
