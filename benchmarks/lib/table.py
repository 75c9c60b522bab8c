"""Tables in Markdown."""

import math
from collections.abc import Callable, Sequence

from hummingbird_edge.benchmarks.lib.record import Row

__all__ = ["format_number", "markdown_table", "row_table"]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; short rows are padded with empty cells."""
    lines = [list(header), ["---"] * len(header)]
    lines += [[*row, *[""] * (len(header) - len(row))] for row in rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def row_table(
    header: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], Sequence[str]]
) -> str:
    """Return a table of one line a row: its name, then `cells` of it, or why it failed."""
    lines = [
        [row.name, *([f"failed: {row.failure}"] if row.failure else cells(row))] for row in rows
    ]
    return markdown_table(["", *header], lines)


def format_number(value: float, template: str = "{}") -> str:
    """Return `value` in a template such as `{:.1f} dB`; nothing for NaN, an absent measure."""
    return "" if math.isnan(value) else template.format(value)
