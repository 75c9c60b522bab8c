"""Measure how time and memory grow with frames, pixels and steps.

    python benchmarks/scaling.py --quick                     the built-in model
    python benchmarks/scaling.py --full-size FOLDER --runs 1 hummingbird-0.7b
    python benchmarks/scaling.py BUNDLE --device openvino --precision int8

One thing at a time changes from the bundle's default shape: 8 to 32 frames, 256x128 (which `hb-run
--fast` generates for 512x320) to 768x512, 1 to 8 steps. Each row makes whole videos as `latency.py`
does. The exponent is the slope of log seconds over log size, by least squares: 1 is linear. Peak
memory includes the weights and compilation, so its exponent is far below that of the activations.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from hummingbird_edge.benchmarks.lib.backends import working_devices
from hummingbird_edge.benchmarks.lib.cases import video_cases
from hummingbird_edge.benchmarks.lib.model_under_test import open_model
from hummingbird_edge.benchmarks.lib.options import BundleArgument, FullSize, Output, Processes
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import markdown_table
from hummingbird_edge.benchmarks.lib.video import measure_video
from hummingbird_edge.benchmarks.lib.workload import request_for
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES, STEPS = (8, 12, 16, 24, 32), (1, 2, 4, 8)
SIZES = ((256, 128), (256, 256), (384, 256), (512, 320), (512, 512), (768, 512))
SMALL_FRAMES, SMALL_STEPS = (8, 16, 32), (1, 4, 8)
SMALL_SIZES = ((64, 64), (96, 64), (128, 80))
MEASURES = {"computing": "computing_s", "unet": "unet_s", "memory": "peak_mib"}
"""Name of an exponent to its measure."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure."""

    device: str
    precision: str
    runs: int
    """Warm videos a process."""
    processes: int
    """Processes a row."""
    is_quick: bool


@dataclass(frozen=True, slots=True)
class Point:
    """One video of a series in which one thing grows."""

    series: str
    """What grows: frames, pixels or steps."""
    size: float
    row: Row


def series(bundle: Bundle, is_small: bool) -> Iterator[tuple[str, float, Request | Row]]:
    """Yield what grows, its size, and the request, or the row that says why there is none."""

    def video(**shape: Any) -> Request | Row:
        try:
            return request_for(bundle, **shape)
        except RequestError as error:
            name = ", ".join(f"{key} {value}" for key, value in shape.items())
            return Row(name, failure=str(error))

    for frames in SMALL_FRAMES if is_small else FRAMES:
        yield "frames", frames, video(frames=frames)
    for width, height in SMALL_SIZES if is_small else SIZES:
        yield "pixels", width * height, video(size=f"{width}x{height}")
    for steps in SMALL_STEPS if is_small else STEPS:
        yield "steps", steps, video(steps=steps)


def exponent(pairs: list[tuple[float, float]]) -> float:
    """Return the slope of log y over log x for pairs (x, y); NaN for fewer than two."""
    if len(pairs) < 2:
        return float("nan")
    x, y = np.log(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


def exponents(points: list[Point]) -> dict[str, dict[str, float]]:
    """Return the exponents of `MEASURES` by series."""
    return {
        name: {
            key: exponent([(point.size, point.row.median(measure)) for point in group])
            for key, measure in MEASURES.items()
        }
        for name, group in by_series(points).items()
    }


def by_series(points: list[Point]) -> dict[str, list[Point]]:
    """Group the points that did not fail."""
    return {
        name: [point for point in points if point.series == name and not point.row.failure]
        for name in dict.fromkeys(point.series for point in points)
    }


def exponents_row(points: list[Point]) -> Row:
    """Return the exponents as a row."""
    measures = {
        f"{name}_{key}": (value,)
        for name, slopes in exponents(points).items()
        for key, value in slopes.items()
        if not np.isnan(value)
    }
    return Row("exponents", measures)


def measure_series(writer: ResultsWriter, bundle: Bundle, plan: Plan) -> list[Point]:
    """Measure the videos of all series."""
    points, rows = list[Point](), dict[str, Row]()
    default = bundle.manifest.defaults
    is_small = plan.is_quick or max(default.width, default.height) < SIZES[0][0]
    with tempfile.TemporaryDirectory() as folder:
        for name, size, request in series(bundle, is_small):
            if isinstance(request, Row):
                points.append(Point(name, size, writer.add(request)))
                continue
            (case,) = video_cases(
                bundle, [plan.device], [plan.precision], [request], plan.runs, Path(folder)
            )
            if case.name not in rows:  # the default shape is a point of every series
                rows[case.name] = writer.measure(measure_video, case, case.name, plan.processes)
            points.append(Point(name, size, rows[case.name]))
    return points


def table(points: list[Point]) -> str:
    """Return the rows as Markdown, and the exponents."""
    header = ["varied", "", "a step, s", "decoder, s", "computing, s", "video, s", "spread, s"]
    rows = markdown_table([*header, "peak MiB"], [_cells(point) for point in points])
    slopes = [
        [name, *(f"{value:.2f}" for value in each.values())]
        for name, each in exponents(points).items()
    ]
    fitted = markdown_table(["exponents of", "computing", "U-Net", "peak memory"], slopes)
    return f"{rows}\n\n{fitted}"


def _cells(point: Point) -> list[str]:
    row = point.row
    if row.failure:
        return [point.series, row.name, f"failed: {row.failure}"]
    video = row["video_s"]
    return [
        point.series,
        row.name,
        f"{row.median('unet_step_s'):.3f}",
        f"{row.median('decoder_s'):.3f}",
        f"{row.median('computing_s'):.3f}",
        f"{video.median:.3f}",
        f"{video.range:.3f}" if video.count > 1 else "one run",
        f"{row.median('peak_mib'):,.0f}",
    ]


def draw_growth(axes: "Axes", points: list[Point]) -> None:
    """Draw seconds over size, each relative to its smallest."""
    slopes = exponents(points)
    for name, group in by_series(points).items():
        if group:
            xs = [point.size / group[0].size for point in group]
            ys = [point.row.median("computing_s") for point in group]
            axes.loglog(xs, ys, "o-", label=f"{name}, exponent {slopes[name]['computing']:.2f}")
    axes.set(xlabel="times the smallest", ylabel="computing, seconds")
    axes.legend(fontsize="small")


@app.command()
def main(
    bundle: BundleArgument = None,
    full_size: FullSize = None,
    device: Annotated[str | None, typer.Option(help="Default: the last that works.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16, bf16 or int8.")] = "auto",
    runs: Annotated[int, typer.Option(min=1, help="Warm videos a process.")] = 3,
    processes: Processes = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in model, fewer and smaller shapes.")
    ] = False,
    output: Output = Path("scaling.json"),
) -> None:
    """Measure how time and memory grow with frames, pixels and steps."""
    require_modules("benchmark", "matplotlib")
    require_output(output)
    if precision == "all":
        raise RequestError("--precision is all: one precision grows at a time, name it")
    model = open_model(bundle, full_size, quick)
    writer = ResultsWriter("scaling", model, output)
    plan = Plan(device or working_devices()[-1], precision, runs, processes, quick)
    points = measure_series(writer, model, plan)
    rows = [*writer.rows, exponents_row(points)]
    writer.publish(rows, table(points), lambda axes: draw_growth(axes, points))


if __name__ == "__main__":
    run_command(app, "scaling.py", PARTIAL_RESULTS)
