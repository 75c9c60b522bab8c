"""Measure `hb-distill curate` on videos with planted faults: what it finds, and how fast.

    python benchmarks/curation.py                       600 videos, one process a core
    python benchmarks/curation.py --videos 5000 --folder FOLDER

Precision is the share of a fault's finds that were planted, recall the share of the planted that
were found. A cut is found where a video is split at it, give or take a frame; of a pair of
duplicates the later one. The thresholds were calibrated with other seeds.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import row_table
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.cpu import usable_cores

if TYPE_CHECKING:
    from hummingbird_edge.benchmarks.lib.planted import Planted
    from hummingbird_edge.distill.curation.candidate import Candidate
    from hummingbird_edge.distill.curation.pipeline import Runner

VERDICTS = {
    "blurred": "low quality",
    "shaken": "motion not smooth",
    "dolly zoom": "dolly zoom",
    "duplicate": "copy of another",
    "static": "static",
}
"""What curation says of each fault; a cut is no reason to drop a clip."""
SPEED = "all stages"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often a fault was planted and found, both at once, and either."""

    fault: str
    both: int
    found: int
    planted: int

    @property
    def precision(self) -> float:
        """Share of what was found that was planted; 1 where nothing was found."""
        return self.both / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of what was planted that was found."""
        return self.both / self.planted if self.planted else 1.0

    def row(self) -> Row:
        """Return it as a result."""
        measures = {"precision": (self.precision,), "recall": (self.recall,)}
        counts = {"both": self.both, "found": self.found, "planted": self.planted}
        return Row(self.fault, measures, counts)


def compare(videos: "Sequence[Planted]", clips: "Sequence[Candidate]") -> list[Agreement]:
    """Compare what was planted with what was found, fault by fault."""
    planted = {fault: {v.name for v in videos if v.fault == fault} for fault in (*VERDICTS, "cut")}
    found = {
        fault: {clip.name for clip in clips if clip.verdict == verdict}
        for fault, verdict in VERDICTS.items()
    }
    cuts = {video.name: video.cut for video in videos}
    starts = [(clip.name, clip.start) for clip in clips if clip.scene]
    found["cut"] = {name for name, _ in starts}
    right = {name for name, start in starts if abs(start - cuts[name]) <= 1}
    return [
        Agreement(
            fault,
            len(planted[fault] & (right if fault == "cut" else found[fault])),
            len(found[fault]),
            len(planted[fault]),
        )
        for fault in planted
    ]


def measure(
    folder: Path, videos: "Sequence[Planted]", runner: "Runner", processes: int
) -> list[Row]:
    """Return a row a fault, and one of the speed."""
    from hummingbird_edge.distill.curation.curate import decide, score_folder
    from hummingbird_edge.distill.curation.filters import Thresholds
    from hummingbird_edge.distill.curation.report import SCORING

    with tempfile.TemporaryDirectory() as output:
        started, busy = time.perf_counter(), os.times()
        scored = score_folder(folder, output, runner=runner)
        run_s = time.perf_counter() - started
        cpu_s = sum(os.times()[:4]) - sum(busy[:4])
    rows = [each.row() for each in compare(videos, decide(scored.clips, Thresholds()))]
    stages = zip(SCORING, zip(*(clip.seconds for clip in scored.clips), strict=True), strict=True)
    measures = {f"{stage}_s": (sum(seconds) / len(scored.clips),) for stage, seconds in stages}
    metadata = {"clips": len(scored.clips), "processes": processes}
    return [*rows, Row(SPEED, {"run_s": (run_s,), "cpu_s": (cpu_s,), **measures}, metadata)]


def table(rows: Sequence[Row], price: float) -> str:
    """Return the agreement as Markdown, and what a million clips would take."""

    def cells(row: Row) -> list[str]:
        counts = [str(row.metadata[key]) for key in ("planted", "found", "both")]
        return [*counts, *(f"{100 * row.median(name):.1f} %" for name in ("precision", "recall"))]

    header = ["planted", "found", "right", "precision", "recall"]
    *faults, speed = rows
    clips, processes = (int(str(speed.metadata[key])) for key in ("clips", "processes"))
    run_s, cpu_s = speed.median("run_s"), speed.median("cpu_s")
    hours = cpu_s / clips * 1e6 / 3600
    return (
        f"{row_table(header, faults, cells)}\n\n{clips} clips in {run_s:.0f} s by {processes} "
        f"processes, {clips / run_s:.1f} a second; {1000 * cpu_s / clips:.0f} ms of a core each. "
        f"A million such clips would take {hours:.0f} core-hours, {price * hours:.2f} $ at {price} "
        f"$ a core-hour."
    )


@app.command()
def main(
    videos: Annotated[int, typer.Option(min=60, help="Videos to make.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Of the videos.")] = 7,
    folder: Annotated[
        Path | None, typer.Option(help="Where the videos are kept for the next time.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, if not one a core.")
    ] = None,
    price: Annotated[float, typer.Option(min=0, help="Dollars a core-hour.")] = 0.05,
    output: Output = Path("curation.json"),
) -> None:
    """Measure what curation finds of planted faults, and how fast."""
    require_modules("benchmark,distill", "matplotlib", "torch", "cv2")
    require_output(output)
    from hummingbird_edge.benchmarks.lib.planted import plan, plant
    from hummingbird_edge.distill.curation.pipeline import Here

    processes = workers or usable_cores()
    writer, planted = ResultsWriter("curation", None, output), plan(videos, seed)
    with tempfile.TemporaryDirectory() as scratch:
        place = (folder or Path(scratch)) / f"{videos}-{seed}"
        plant(place, planted, seed, processes)
        for row in measure(place, planted, Here(processes), processes):
            writer.add(row)
    rows = writer.rows
    stages = [name for name in rows[-1].measures if name not in ("run_s", "cpu_s")]
    labels = [name.removesuffix("_s") for name in stages]
    writer.publish(
        rows,
        table(rows, price),
        lambda axes: stacked_bars(axes, rows[-1:], stages, labels, "seconds a clip"),
    )


if __name__ == "__main__":
    run_command(app, "curation.py", PARTIAL_RESULTS)
