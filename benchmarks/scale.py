"""Simulate a batch of videos and the curation of clips on a cluster of up to 1,000 nodes.

    python benchmarks/scale.py                              the figures of scale_figures.json
    python benchmarks/scale.py --figures MINE.json --nodes 1,4000

A discrete-event simulation, fed with measured times and sizes and with stated assumptions. The file
of figures has the source of each; `scale_costs.py` measured some of them.

    videos, by the head     `hb-run --batch --ray`: bundle and videos pass the driver's machine
    videos, by the store    nodes read the bundle and write videos themselves
    videos, 40x as fast     both again, on nodes that make a video in a fortieth of the time
    clips                   `hb-distill curate` on Ray Data, with shards

`per second` is the rate while the middle half is made; `efficiency` is the time that computing
alone would take, over all of the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from hummingbird_edge.benchmarks.lib.figures import Figures, Sourced, read_figures
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import markdown_table
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.benchmarks.lib.simulation import Outcome

FIGURES = Path(__file__).with_name("scale_figures.json")
SPEEDUP = 40
"""Of an imagined node, about a data-centre GPU's."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Case:
    """What a cluster does, and how much of it."""

    name: str
    run: Callable[[Figures, int, int], "Outcome"]
    items: int
    """A node."""
    speedup: float = 1.0

    def simulate(self, figures: Figures, nodes: int) -> Row:
        """Return what `nodes` do."""
        figures = msgspec.structs.replace(figures, video_s=figures.video_s / self.speedup)
        found = self.run(figures, nodes, self.items)
        measures = {
            "batch_s": (found.seconds,),
            "throughput_per_s": (found.per_s,),
            "efficiency": (found.efficiency,),
            **{f"{name} share": (share,) for name, share in found.shares.items()},
        }
        metadata = {"nodes": nodes, "items": nodes * self.items, "limit": found.limit}
        return Row(f"{self.name}, {nodes:,} nodes", measures, metadata)


def cases(videos: int, clips: int) -> list[Case]:
    """Return the cases, for so many videos and clips a node."""
    from hummingbird_edge.benchmarks.lib.simulation import curate, generate

    def by_head(figures: Figures, nodes: int, jobs: int) -> "Outcome":
        return generate(figures, nodes, jobs, by_head=True)

    def by_store(figures: Figures, nodes: int, jobs: int) -> "Outcome":
        return generate(figures, nodes, jobs, by_head=False)

    return [
        Case("videos, by the head", by_head, videos),
        Case("videos, by the store", by_store, videos),
        Case(f"videos, {SPEEDUP}x as fast, by the head", by_head, 2 * videos, SPEEDUP),
        Case(f"videos, {SPEEDUP}x as fast, by the store", by_store, 2 * videos, SPEEDUP),
        Case("clips", curate, clips),
    ]


def table(rows: Sequence[Row], sourced: Sourced) -> str:
    """Return as Markdown what came out, and the figures that went in."""
    header = ["", "per second", "all, s", "efficiency", "busiest", "busy", "next", "busy"]
    outcomes = markdown_table(header, [_cells(row) for row in rows])
    figures = [
        [name, f"{each.value:,.6g}", kind, each.source]
        for kind, group in (("measured", sourced.measured), ("assumed", sourced.assumed))
        for name, each in group.items()
    ]
    return f"{outcomes}\n\n{markdown_table(['figure', 'value', '', 'source'], figures)}"


def _cells(row: Row) -> list[str]:
    shares = {n.removesuffix(" share"): row.median(n) for n in row.measures if "share" in n}
    busiest, following, *_ = sorted(shares, key=lambda name: -shares[name])
    return [
        row.name,
        f"{row.median('throughput_per_s'):.4g}",
        f"{row.median('batch_s'):,.0f}",
        f"{100 * row.median('efficiency'):.1f} %",
        busiest,
        f"{100 * shares[busiest]:.1f} %",
        following,
        f"{100 * shares[following]:.1f} %",
    ]


def draw_efficiency(axes: "Axes", rows: Sequence[Row]) -> None:
    """Draw each case's efficiency over the number of nodes."""
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.name.rsplit(", ", 1)[0], []).append(row)
    for name, group in by_case.items():
        nodes = [int(str(row.metadata["nodes"])) for row in group]
        axes.semilogx(nodes, [100 * row.median("efficiency") for row in group], "o-", label=name)
    axes.set(xlabel="nodes", ylabel="efficiency, %", ylim=(0, 105))
    axes.legend(fontsize="small")


def parse_nodes(text: str) -> list[int]:
    """Return the numbers of nodes, rising; raises RequestError."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise RequestError(f"--nodes is {text!r}: write numbers with commas, as 1,10") from error
    if found[0] < 1:
        raise RequestError(f"--nodes is {text!r}: the fewest are 1")
    return found


@app.command()
def main(
    figures: Annotated[Path, typer.Option(help="Times, sizes and assumptions.")] = FIGURES,
    nodes: Annotated[str, typer.Option(help="How many, with commas.")] = "1,2,10,100,1000",
    videos: Annotated[int, typer.Option(min=4, help="A node; twice as many of fast ones.")] = 100,
    clips: Annotated[int, typer.Option(min=64, help="A node.")] = 20_000,
    output: Output = Path("scale.json"),
) -> None:
    """Simulate a cluster: where the driver or the store becomes the limit."""
    require_modules("benchmark", "simpy", "matplotlib")
    require_output(output)
    sourced, counts = read_figures(figures), parse_nodes(nodes)
    writer = ResultsWriter("scale", None, output)
    for case in cases(videos, clips):
        for count in counts:
            writer.add(case.simulate(sourced.figures, count))
    rows = writer.rows
    writer.publish(rows, table(rows, sourced), lambda axes: draw_efficiency(axes, rows))


if __name__ == "__main__":
    run_command(app, "scale.py", PARTIAL_RESULTS)
