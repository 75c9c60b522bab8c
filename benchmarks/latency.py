"""Measure the latency of a video: cold and warm, stage by stage, on every working device.

    python benchmarks/latency.py                             the built-in model
    python benchmarks/latency.py BUNDLE --device openvino --precision all --steps 2 --steps 4
    python benchmarks/latency.py --full-size FOLDER          the published size, random weights

`lib/video.py` says how a row is measured: a cold video, then `--runs` warm ones, in a process of
its own. A row that takes less than a minute is measured in `--processes` processes, so that the
spread includes how a machine drifts between processes. The frames of a row are compared with those
of the most precise row of the same shape, and below 30 dB the row says so. fps is frames over the
seconds of the whole video. Device memory is the peak beyond what was in use before, of all
processes. Joules are of a warm video, idle power and other programs included, and left out where
the system does not tell them.

Conventions: MLPerf Inference (fixed seed and latent, a stated quality gate), UL Procyon AI Image
Generation (stages, pipeline, seconds an item).
"""

import itertools
import tempfile
from pathlib import Path
from typing import Annotated, TypeVar

import psutil
import typer

from hummingbird_edge.benchmarks.lib.backends import working_devices
from hummingbird_edge.benchmarks.lib.cases import VideoCase, video_cases
from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.model_under_test import open_model
from hummingbird_edge.benchmarks.lib.options import BundleArgument, FullSize, Output, Processes
from hummingbird_edge.benchmarks.lib.quality import add_agreement
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import format_number, row_table
from hummingbird_edge.benchmarks.lib.video import COLD, PARTS, measure_video
from hummingbird_edge.benchmarks.lib.workload import request_for
from hummingbird_edge.runtime.bundle.manifest import MIN_PSNR_DB
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.errors import RequestError

Value = TypeVar("Value")
LABELS = ("loading", "text encoder", "U-Net steps", "decoder", "post-processing", "MP4")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def measure_cases(writer: ResultsWriter, cases: dict[str, VideoCase], processes: int) -> list[Row]:
    """Measure the rows of these cases, each with its agreement."""
    for name, case in cases.items():
        writer.measure(measure_video, case, name, processes)
    return add_agreement(writer.rows, cases)


def table(rows: list[Row]) -> str:
    """Return the rows as two tables: the parts, and the whole."""

    def parts(row: Row) -> list[str]:
        measures = (*PARTS[:2], "unet_step_s", *PARTS[2:])
        return [*(_with_range(row, part) for part in measures), f"{row.median('elsewhere_s'):.3f}"]

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
            format_number(row.median("device_mib"), "{:,.0f}"),
            format_number(row.median("video_j"), "{:,.1f}"),
            format_number(agreement, "{:.1f} dB") + gate,
        ]

    header = ["load, s", "text encoder, s", "a step, s", "all steps, s", "decoder, s"]
    total = ["cold: open, load, video, s", "warm, s", "p95, s", "spread, s", "fps", "peak MiB"]
    first = row_table([*header, "post-processing, s", "MP4, s", "other, s"], rows, parts)
    done = [row for row in rows if not row.failure]
    return f"{first}\n\n{row_table([*total, 'device MiB', 'J a video', 'agreement'], done, whole)}"


def _with_range(row: Row, part: str) -> str:
    seconds = row[part]
    return f"{seconds.median:.3f} ±{seconds.range / 2:.3f}"


@app.command()
def main(
    bundle: BundleArgument = None,
    full_size: FullSize = None,
    device: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: all that work.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="auto, fp32, fp16, bf16, int8 or all; repeatable.")
    ] = None,
    frames: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Such as 512x320; may be repeated.")
    ] = None,
    steps: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    decoder: Annotated[str, typer.Option(help="full or tiny.")] = "full",
    runs: Annotated[int, typer.Option(min=1, help="Warm videos a process.")] = 5,
    processes: Processes = 3,
    threads: Annotated[int | None, typer.Option(help="Cores to use; default: all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in model's default, in two minutes.")
    ] = False,
    output: Output = Path("latency.json"),
) -> None:
    """Measure the latency of a video, stage by stage."""
    require_modules("benchmark", "matplotlib", "skimage")
    require_threads(threads)
    require_precisions(precision or [])
    require_output(output)
    model = open_model(bundle, full_size, quick)
    shapes = itertools.product(_or_default(size), _or_default(frames), _or_default(steps))
    requests = [request_for(model, decoder, *shape) for shape in shapes]
    devices, precisions = device or working_devices(), precision or ["auto"]
    writer = ResultsWriter("latency", model, output)
    with tempfile.TemporaryDirectory() as folder:
        cases = video_cases(model, devices, precisions, requests, runs, Path(folder), threads)
        rows = measure_cases(writer, {case.name: case for case in cases}, processes)
    unit = "seconds a warm video, medians"
    writer.publish(rows, table(rows), lambda axes: stacked_bars(axes, rows, PARTS, LABELS, unit))


def _or_default(values: list[Value] | None) -> list[Value] | list[None]:
    """Return the values of an option, or None once: the bundle's default."""
    return values or [None]


def require_threads(threads: int | None) -> None:
    """Raise RequestError for more cores than there are, or where processes cannot be bound."""
    if threads is not None and not 1 <= threads <= usable_cores():
        raise RequestError(f"--threads is {threads}: this machine has 1 to {usable_cores()}")
    if threads is not None and not hasattr(psutil.Process, "cpu_affinity"):
        raise RequestError("--threads needs a system that binds processes to cores: leave it out")


def require_precisions(precisions: list[str]) -> None:
    """Raise RequestError for an unknown precision."""
    known = ("auto", *map(str, Precision), "all")
    for name in precisions:
        if name not in known:
            raise RequestError(f"there is no precision {name!r}: choose from {', '.join(known)}")


if __name__ == "__main__":
    run_command(app, "latency.py", PARTIAL_RESULTS)
