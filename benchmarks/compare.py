"""Compare two results of one benchmark: ratios, and a verdict where the difference is real.

    python benchmarks/compare.py BEFORE.json AFTER.json
    python benchmarks/compare.py BEFORE.json AFTER.json --output compared.md     and a chart

Rows and measures are paired by name. A ratio is of medians, after over before. A verdict needs five
measurements of each, medians that differ by more than either spread and by more than 5 %, and no
overlap of the two ranges: from one process to the next a machine drifts by more than the runs
inside one show. Rows that failed, or that only one result has, are listed below the table.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.chart import chart_png
from hummingbird_edge.benchmarks.lib.record import Record, Row, Spread, write_file
from hummingbird_edge.benchmarks.lib.table import markdown_table
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import OutputError, RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAME, FASTER, SLOWER = "no difference", "faster", "slower"
MORE, LESS, UNKNOWN = "more", "less", "too few runs"
MIN_RUNS = 5
"""With three of each, two results of the same code do not overlap one time in ten."""
MAX_DRIFT = 0.05
"""Share of the larger median by which two results of the same code may differ."""

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
        """Whether the two differ, and how."""
        before, after = self.before, self.after
        if min(before.count, after.count) < MIN_RUNS:
            return UNKNOWN
        overlap = before.max >= after.min and after.max >= before.min
        drift = MAX_DRIFT * max(abs(before.median), abs(after.median))
        threshold = max(before.range, after.range, drift)
        if overlap or abs(after.median - before.median) <= threshold:
            return SAME
        grew = after.median > before.median
        if self.measure.endswith("_s"):
            return SLOWER if grew else FASTER
        return MORE if grew else LESS


def differences(before: Record, after: Record) -> list[Difference]:
    """Return the measures that both records have; raises RequestError where there are none."""
    if before.benchmark != after.benchmark:
        raise RequestError(
            f"one result is of {before.benchmark}, the other of {after.benchmark}: "
            f"give two of one benchmark"
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
    for side, one, other in sides:
        names = {row.name for row in other.rows}
        for row in one.rows:
            if row.failure:
                lines.append(f"{row.name} failed {side}: {row.failure}")
            elif row.name not in names:
                lines.append(f"{row.name} is in the result {side} alone")
    return lines


def table(found: list[Difference]) -> str:
    """Return the differences as Markdown."""
    header = ["", "measure", "before", "spread", "after", "spread", "ratio", "verdict"]
    return markdown_table(
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
    """Draw a bar a measure; those that differ have a colour."""
    known = [each for each in found[::-1] if each.before.median]
    colours = ["lightgrey" if each.verdict in (SAME, UNKNOWN) else "C1" for each in known]
    names = [f"{each.row}: {each.measure}" for each in known]
    axes.barh(names, [each.ratio for each in known], color=colours)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("median after over median before; coloured where they differ")


def report(found: list[Difference], records: tuple[Record, Record], paths: list[Path]) -> str:
    """Return the table, the rows it leaves out, and where each result is from."""
    before, after = records
    lines = [table(found), "", *missing(before, after)]
    for record, path in zip(records, paths, strict=True):
        lines.append(f"{path}: {record.machine}, {record.created}, {record.command}")
    if before.bundle != after.bundle:
        lines.append("The bundles differ.")
    if str(before.machine) != str(after.machine):
        lines.append("The machines differ.")
    return "\n".join(lines)


def of_measure(found: list[Difference], measure: str) -> list[Difference]:
    """Return the differences of one measure; raises RequestError where there are none."""
    chosen = [each for each in found if each.measure == measure]
    if not chosen:
        raise RequestError(f"there is no measure {measure!r} in both: leave --measure out")
    return chosen


def require_markdown(output: Path) -> None:
    """Raise OutputError or DeviceError where the table and the chart cannot be written."""
    require_modules("benchmark", "matplotlib")
    if output.suffix != ".md" or not output.parent.is_dir():
        raise OutputError(f"--output is {output}: give a .md file in a folder that exists")


@app.command()
def main(
    before: Annotated[Path, typer.Argument(help="A result of any benchmark.")],
    after: Annotated[Path, typer.Argument(help="Another of the same benchmark.")],
    measure: Annotated[
        str | None, typer.Option(help="This measure alone, such as video_s.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .md file for the table; a chart, .png, is written too.")
    ] = None,
) -> None:
    """Compare two results of one benchmark."""
    if output is not None:
        require_markdown(output)
    records = Record.read(before), Record.read(after)
    found = differences(*records)
    if measure is not None:
        found = of_measure(found, measure)
    text = report(found, records, [before, after])
    typer.echo(text)
    if output is not None:
        write_file(output, f"{text}\n".encode())
        title = f"{after.name} over {before.name}"
        png = chart_png(title, len(found), lambda axes: draw_ratios(axes, found))
        write_file(output.with_suffix(".png"), png)


if __name__ == "__main__":
    run_command(app, "compare.py")
