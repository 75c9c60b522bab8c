"""Charts as PNG."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hummingbird_edge.benchmarks.lib.record import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chart_png", "stacked_bars"]

_SHAPE = r", \d+ frames of \d+x\d+"


def stacked_bars(
    axes: "Axes", rows: Sequence[Row], measures: Sequence[str], labels: Sequence[str], unit: str
) -> None:
    """Draw a bar a row, stacked of the medians of `measures`; failed rows are left out."""
    rows = [row for row in rows if not row.failure][::-1]
    names, left = [row.name for row in rows], [0.0] * len(rows)
    shapes = {shape for name in names for shape in re.findall(_SHAPE, name)}
    if len(shapes) == 1:  # a shape that all rows share is written once
        names = [re.sub(_SHAPE, "", name) for name in names]
        unit = f"{unit}{shapes.pop()}"
    for measure, label in zip(measures, labels, strict=True):
        widths = [row.median(measure) if row.measures.get(measure) else 0.0 for row in rows]
        axes.barh(names, widths, left=left, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel(unit)
    if len(measures) > 1:
        axes.legend(fontsize="small")


def chart_png(title: str, rows: int, draw: Callable[["Axes"], None]) -> bytes:
    """Return a PNG of what `draw` draws, tall enough for as many `rows`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, max(3.6, 1.5 + 0.22 * rows)), layout="constrained")
    draw(figure.subplots())
    figure.suptitle(title, x=0.01, ha="left", fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, dpi=110, metadata={"Software": None})
    return png.getvalue()
