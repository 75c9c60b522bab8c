"""How long a video takes, and where: cold and warm, stage by stage, on every device that works.

    python benchmarks/latency.py                             the built-in model
    python benchmarks/latency.py BUNDLE --device openvino --precision all --steps 2 --steps 4
    python benchmarks/latency.py --full-size FOLDER          the published size, random weights

Rows and the parts of a video are those of `video.py`: cold, then `--runs` warm videos, in a
process of its own. A row that takes less than a minute is measured in `--processes` of them: from
one to the next a machine drifts by more than the videos of one tell, and the spread has to cover
that. Frames are held to those of the row of the same shape with the most precise numbers, and
below 30 dB the row says so. fps is frames over the seconds of the whole video. Device memory is
the most that was taken beyond what was before, by whatever ran.

Conventions: MLPerf Inference (fixed seed and latent, a stated quality gate), UL Procyon AI Image
Generation (stages, pipeline, seconds an item).
"""

import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import psutil
import typer

from hummingbird_edge.benchmarks.lib.apart import measure_apart
from hummingbird_edge.benchmarks.lib.engines import working_devices
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.options import BundleArgument, FullSize, Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.subject import open_subject
from hummingbird_edge.benchmarks.lib.table import bars, by_row, shown
from hummingbird_edge.benchmarks.lib.video import (
    COLD,
    PARTS,
    Case,
    cases,
    measure,
    request_for,
    with_agreement,
)
from hummingbird_edge.runtime.bundle.manifest import MIN_PSNR_DB
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Value = TypeVar("Value")
LABELS = ("loading", "text encoder", "U-Net steps", "decoder", "post-processing", "MP4")

_SHORT_S = 60.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def table(rows: list[Row]) -> str:
    """Return the rows as two tables: the parts, and the whole."""

    def parts(row: Row) -> list[str]:
        shares = [_with_range(row, part) for part in (*PARTS[:2], "unet_step_s", *PARTS[2:])]
        return [*shares, f"{row.median('elsewhere_s'):.3f}"]

    def whole(row: Row) -> list[str]:
        warm, agreement = row["video_s"], row.median("agreement_db")
        gate = ", below the gate" if agreement < MIN_PSNR_DB else ""
        return [
            ", ".join(f"{row.median(f'cold_{part}_s'):.2f}" for part in COLD),
            f"{warm.median:.3f}",
            f"{warm.p95:.3f}",
            f"{warm.range:.3f}",
            f"{row.median('fps'):.2f}",
            f"{row.median('peak_mib'):,.0f}",
            shown(row.median("device_mib"), "{:,.0f}"),
            shown(agreement, "{:.1f} dB") + gate,
        ]

    header = ["load, s", "text, s", "a step, s", "steps, s", "decoder, s", "post, s", "MP4, s"]
    total = ["cold: open, load, video, s", "warm, s", "p95, s", "spread, s", "fps", "peak MiB"]
    first = by_row([*header, "elsewhere, s"], rows, parts)
    done = [row for row in rows if not row.failure]
    return f"{first}\n\n{by_row([*total, 'device MiB', 'frames'], done, whole)}"


def _with_range(row: Row, part: str) -> str:
    spread = row[part]
    return f"{spread.median:.3f} ±{spread.range / 2:.3f}"


def measured(case: Case, processes: int) -> Row:
    """Measure a row in processes of its own, as many as `processes` where they are short.

    Each has all of the row's runs; what they find is one row, or the first failure.
    """
    started, rows = time.perf_counter(), list[Row]()
    while len(rows) < processes and (not rows or time.perf_counter() - started < _SHORT_S):
        row = measure_apart(measure, case, case.name)
        if row.failure:
            return row
        rows.append(row)
    found = {name: sum((row.measures[name] for row in rows), ()) for name in rows[0].measures}
    return replace(rows[0], measures=found, facts={**rows[0].facts, "processes": len(rows)})


@app.command()
def main(
    bundle: BundleArgument = None,
    full_size: FullSize = None,
    device: Annotated[
        list[str] | None, typer.Option(help="May be repeated; else all that work.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="auto, fp32, fp16, bf16, int8 or all; repeatable.")
    ] = None,
    frames: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="As 512x320; may be repeated.")] = None,
    steps: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    decoder: Annotated[str, typer.Option(help="full or tiny.")] = "full",
    runs: Annotated[int, typer.Option(min=1, help="Warm videos a row.")] = 5,
    processes: Annotated[
        int, typer.Option(min=1, help="For a row; one where that takes a minute or more.")
    ] = 3,
    threads: Annotated[int | None, typer.Option(help="Cores to use, else all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in model's default in two minutes at most.")
    ] = False,
    output: Output = Path("latency.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib", "skimage")
    require_threads(threads)
    require_precisions(precision or [])
    require_output(output)
    subject = open_subject(bundle, full_size, quick)
    ledger = Ledger("latency", subject, output)
    shapes = itertools.product(_each(size), _each(frames), _each(steps))
    requests = [request_for(subject, decoder, *shape) for shape in shapes]
    devices, precisions = device or working_devices(), precision or ["auto"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planned = cases(subject, devices, precisions, requests, runs, threads, folder)
        known = {case.name: case for case in planned}
        for case in known.values():
            ledger.add(measured(case, processes))
        rows = with_agreement(ledger.rows, known)

    def draw(axes: "Axes") -> None:
        bars(axes, rows, PARTS, LABELS, "seconds a warm video, medians")

    ledger.publish(rows, table(rows), draw)


def _each(asked: list[Value] | None) -> list[Value] | list[None]:
    """Return what was asked for, or None once: the bundle's default."""
    return asked or [None]


def require_threads(threads: int | None) -> None:
    """Raise RequestError for more cores than there are, or where processes cannot be bound."""
    if threads is not None and not 1 <= threads <= usable_cores():
        raise RequestError(f"--threads is {threads}: this machine has 1 to {usable_cores()}")
    if threads is not None and not hasattr(psutil.Process, "cpu_affinity"):
        raise RequestError("--threads needs a system that binds processes to cores: leave it out")


def require_precisions(precisions: list[str]) -> None:
    """Raise RequestError for a name that is no precision."""
    for name in precisions:
        known = ("auto", *Precision, "all")
        if name not in known:
            names = ", ".join(map(str, known))
            raise RequestError(f"there is no precision {name!r}: choose from {names}")


if __name__ == "__main__":
    run_command(app, "latency.py", KEPT)
