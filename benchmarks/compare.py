"""Two results of one benchmark side by side: ratios, and a verdict where the difference is real.

    python benchmarks/compare.py BEFORE.json AFTER.json
    python benchmarks/compare.py BEFORE.json AFTER.json --output compared.md     and a picture

Rows are paired by their names, measures by theirs. A ratio is of medians, after over before. A
verdict is given only where the medians differ by more than either spread, no measurement of one
lies among those of the other, there are at least five of each, and the medians are 5 % apart: from
one process to the next a machine drifts by more than the runs inside of either tell. Rows that
failed, or that only one result has, are named below the table.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.record import Record, Row, Spread, write_beside
from hummingbird_edge.benchmarks.lib.table import markdown, picture
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import OutputError, RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAME, FASTER, SLOWER = "no difference", "faster", "slower"
MORE, LESS, UNKNOWN = "more", "less", "too few runs"
MIN_RUNS = 5
"""With fewer, two runs of the same lie apart by chance too often: with three, one time in ten."""
DRIFT = 0.05
"""Of the larger median: what two results of the same may differ by."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of one row, before and after."""

    row: str
    measure: str
    before: Spread
    after: Spread

    @property
    def ratio(self) -> float:
        """The median after over the median before."""
        return self.after.median / self.before.median if self.before.median else float("nan")

    @property
    def verdict(self) -> str:
        """What can be said of it."""
        before, after = self.before, self.after
        if min(before.count, after.count) < MIN_RUNS:
            return UNKNOWN
        apart = before.most < after.least or after.most < before.least
        drift = DRIFT * max(abs(before.median), abs(after.median))
        least = max(before.range, after.range, drift)
        if not apart or abs(after.median - before.median) <= least:
            return SAME
        grew = after.median > before.median
        if self.measure.endswith("_s"):
            return SLOWER if grew else FASTER
        return MORE if grew else LESS


def differences(before: Record, after: Record) -> list[Difference]:
    """Return what both records measured; raises RequestError where that is nothing."""
    if before.benchmark != after.benchmark:
        raise RequestError(
            f"one result is of {before.benchmark}, the other of {after.benchmark}: give two of one"
        )
    rows: dict[str, Row] = {row.name: row for row in after.rows}
    found = [
        Difference(row.name, measure, row[measure], rows[row.name][measure])
        for row in before.rows
        if row.name in rows
        for measure in row.measures
        if row.measures[measure] and rows[row.name].measures.get(measure)
    ]
    if not found:
        names = ", ".join(row.name for row in before.rows), ", ".join(rows)
        raise RequestError(f"the results have no measured row in common: {' and '.join(names)}")
    return found


def missing(before: Record, after: Record) -> list[str]:
    """Say which rows could not be compared, and why."""
    sides = (("before", before, after), ("after", after, before))
    lines = []
    for title, one, other in sides:
        names = {row.name for row in other.rows}
        for row in one.rows:
            if row.failure:
                lines.append(f"{row.name} failed {title}: {row.failure}")
            elif row.name not in names:
                lines.append(f"{row.name} is in the result {title} alone")
    return lines


def table(found: list[Difference]) -> str:
    """Return the differences as Markdown."""
    header = ["", "measure", "before", "spread", "after", "spread", "ratio", "verdict"]
    return markdown(
        header,
        [
            [
                each.row,
                each.measure,
                f"{each.before.median:.4g}",
                f"{each.before.range:.2g}",
                f"{each.after.median:.4g}",
                f"{each.after.range:.2g}",
                f"{each.ratio:.3f}" if each.before.median else "",
                each.verdict,
            ]
            for each in found
        ],
    )


def draw_ratios(axes: "Axes", found: list[Difference]) -> None:
    """Draw a bar a measure, those with a verdict in colour."""
    known = [each for each in found[::-1] if each.before.median]
    colours = ["lightgrey" if each.verdict in (SAME, UNKNOWN) else "C1" for each in known]
    names = [f"{each.row}: {each.measure}" for each in known]
    axes.barh(names, [each.ratio for each in known], color=colours)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("median after over median before; in colour where they differ")


@app.command()
def main(
    before: Annotated[Path, typer.Argument(help="A result of any benchmark.")],
    after: Annotated[Path, typer.Argument(help="Another of the same benchmark.")],
    measure: Annotated[
        str | None, typer.Option(help="This measure alone, such as video_s.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A file for the table, .md; a picture, .png, beside it.")
    ] = None,
) -> None:
    """Compare two results."""
    if output is not None:
        require_modules("benchmark", "matplotlib")
        if output.suffix != ".md" or not output.parent.is_dir():
            raise OutputError(f"--output is {output}: give a .md file in a folder that exists")
    records = Record.read(before), Record.read(after)
    found = differences(*records)
    if measure is not None:
        found = [each for each in found if each.measure == measure]
        if not found:
            raise RequestError(f"there is no measure {measure!r} in both: leave --measure out")
    lines = [table(found), "", *missing(*records)]
    for record, path in zip(records, (before, after), strict=True):
        lines.append(f"{path}: {record.machine}, {record.created}, {record.command}")
    for title, one, other in (
        ("bundles", records[0].bundle, records[1].bundle),
        ("machines", str(records[0].machine), str(records[1].machine)),
    ):
        if one != other:
            lines.append(f"The {title} differ.")
    typer.echo("\n".join(lines))
    if output is not None:
        write_beside(output, ("\n".join(lines) + "\n").encode())
        names = f"{after.name} over {before.name}"
        png = picture(names, len(found), lambda axes: draw_ratios(axes, found))
        write_beside(output.with_suffix(".png"), png)


if __name__ == "__main__":
    run_command(app, "compare.py")
