"""Measure how much of the machine's peak each stage reaches: the roofline model.

    python benchmarks/roofline.py                            the built-in model
    python benchmarks/roofline.py --full-size FOLDER         hummingbird-0.7b, 16 frames of 512x320
    python benchmarks/roofline.py BUNDLE --device openvino --precision int8

The peak FLOP/s is that of a chain of large products in the same engine and precision, the memory
bandwidth that of a large copy by all cores; both are measured once in this run, the best of
several. A stage cannot be faster than its FLOP count at the peak, nor than its memory traffic at
that bandwidth (`lib/flops.py` counts both from the graph, elements as wide as the precision); the
longer of the two is its floor, and its share of the roof is floor over measured time. In int8,
attention and the text encoder stay unquantized and are held to the peak of that precision. The FLOP
count is of what the graph computes; "published" is that of the network as it is published, which
upsamples before it convolves, and "fewest" a bound, that of minimal filtering. The shares with
either hold the measured time to that count. A whole video's row adds up its stages, each as often
as a video runs it.

A small model's weights stay in the cache between runs, and memory traffic is no floor then: a share
above 100 % says so. Devices with memory of their own have a peak FLOP/s alone.

Source: Williams, Waterman, Patterson 2009, "Roofline".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.backends import working_backends
from hummingbird_edge.benchmarks.lib.machine import peak_mib
from hummingbird_edge.benchmarks.lib.model_under_test import open_model
from hummingbird_edge.benchmarks.lib.options import BundleArgument, Frames, FullSize, Output, Size
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.roof import memory_bandwidth, peak_flops
from hummingbird_edge.benchmarks.lib.subprocess_runner import run_in_subprocess
from hummingbird_edge.benchmarks.lib.table import format_number, row_table
from hummingbird_edge.benchmarks.lib.workload import request_for, shape_text
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.trial import run_trial
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Task:
    """One stage on one backend."""

    bundle: Path
    stage: str
    sizes: dict[str, int]
    backend: Backend
    runs: int
    """Timed runs."""
    shape: str
    """Of the video, in words."""
    times: int
    """How often a video runs the stage."""

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.stage}, {self.backend}, {self.shape}"

    @property
    def products(self) -> tuple[Backend, Backend]:
        """What computes products with weights, and those of attention: int8 is for the former."""
        is_text = self.stage == "text_encoder"  # its weights alone are quantized
        is_int8_text = is_text and self.backend.precision is Precision.INT8
        precision = Precision.FP32 if is_int8_text else self.backend.arithmetic
        unquantized = replace(self.backend, precision=precision)
        return (unquantized if is_text else self.backend), unquantized


def measure_peak(backend: Backend) -> Row:
    """Measure the products that set a backend's peak, in a process that does nothing else."""
    return Row(f"products, {backend}", {"product_gops": (peak_flops(backend) / 1e9,)})


def measure(task: Task, peak: float, attention_peak: float) -> Row:
    """Time a stage in a process that does nothing else; peaks are in FLOP/s."""
    from hummingbird_edge.benchmarks.lib.flops import graph_cost

    bundle = Bundle.open(task.bundle)
    trial = run_trial(bundle, task.stage, task.backend, task.sizes, None, task.runs, enough_s=1e9)
    # The graph without a device's own operators, which have other shapes.
    graph = bundle.graph(task.stage, None, bundle.manifest.stage(task.stage).precisions[0])
    cost = graph_cost(graph, task.sizes)
    traffic = cost.bytes(task.backend.precision.item_bytes)
    floor_s = cost.layer_flops / peak + cost.attention_flops / attention_peak
    measures = {
        "run_s": trial.seconds,
        "product_gops": (peak / 1e9,),
        "operations_g": (cost.flops / 1e9,),
        "published_operations_g": (cost.published_flops / 1e9,),
        "fewest_operations_g": (cost.fewest_flops / 1e9,),
        "operations_floor_s": (floor_s,),
        "published_floor_s": (floor_s + (cost.published_flops - cost.flops) / peak,),
        "fewest_floor_s": (floor_s + (cost.fewest_flops - cost.flops) / peak,),
        "moved_gb": (traffic / 1e9,),
        "intensity": (cost.flops / traffic,),
        "peak_mib": (peak_mib(),),
    }
    return Row(task.name, measures)


def with_floor(row: Row, bandwidth: float | None) -> Row:
    """Add the floor and the share of the roof; `bandwidth` is in bytes a second, None for none."""
    if row.failure:
        return row
    compute_s, memory_s = row.median("operations_floor_s"), 0.0
    measures = dict(row.measures)
    if bandwidth is not None:
        memory_s = row.median("moved_gb") * 1e9 / bandwidth
        measures["copy_gbs"] = (bandwidth / 1e9,)
    floor_s = max(compute_s, memory_s)
    measures["floor_s"] = (floor_s,)
    measures["share"] = tuple(floor_s / seconds for seconds in row.measures["run_s"])
    bound = "compute" if compute_s >= memory_s else "memory"
    return replace(row, measures=measures, metadata={**row.metadata, "bound_by": bound})


def whole_video(stages: list[tuple[Task, Row]]) -> Row:
    """Return the row of a video from its stages on one backend.

    Its floor is the sum of theirs; operations and traffic are those of all runs of every stage.
    """
    first, _ = stages[0]
    name = f"whole video, {first.backend}, {first.shape}"
    if failures := [f"{task.stage}: {row.failure}" for task, row in stages if row.failure]:
        return Row(name, failure=failures[0])

    def total(measure: str) -> float:
        return sum(task.times * row.median(measure) for task, row in stages)

    counts = ("operations_g", "published_operations_g", "fewest_operations_g", "moved_gb")
    floors = ("floor_s", "published_floor_s", "fewest_floor_s")
    measures = {measure: (total(measure),) for measure in ("run_s", *counts, *floors)}
    measures["share"] = (total("floor_s") / total("run_s"),)
    measures["published_share"] = (total("published_floor_s") / total("run_s"),)
    measures["fewest_share"] = (total("fewest_floor_s") / total("run_s"),)
    return Row(name, measures, {"bound_by": "all stages"})


def tasks(bundle: Bundle, request: Request, runs: int, only: Sequence[str]) -> Iterator[Task]:
    """Yield every stage on every working backend, or on those with a device or precision named."""
    for stage, sizes in request.stage_sizes(bundle.manifest).items():
        chunks = -(-request.frames // sizes.get("frames", 1))
        times = {"text_encoder": 1, "unet": request.steps}.get(stage, chunks)
        for backend in working_backends(stage, bundle.manifest.stage(stage).precisions):
            if all(name in (backend.device.name, str(backend.precision)) for name in only):
                shape = shape_text(request)
                yield Task(bundle.folder, stage, dict(sizes), backend, runs, shape, times)


def measure_stages(
    writer: ResultsWriter, bundle: Bundle, request: Request, runs: int, only: Sequence[str]
) -> None:
    """Measure every stage on the working backends, then add whole videos."""
    bandwidth, by_backend = memory_bandwidth(), dict[str, list[tuple[Task, Row]]]()
    peaks = dict[Backend, Row]()
    planned = list(tasks(bundle, request, runs, only))
    if not planned:
        raise RequestError(f"nothing here runs on {' '.join(only)}: leave the options out")
    for task in planned:
        # The copy was in this machine's memory, not in the device's own.
        is_shared = not task.backend.device.needs_proof
        row = _measured(task, peaks)
        row = writer.add(with_floor(row, bandwidth if is_shared else None))
        by_backend.setdefault(str(task.backend), []).append((task, row))
    needed = len({task.stage for task in planned})
    for stages in by_backend.values():
        if len(stages) == needed:
            writer.add(whole_video(stages))


def _measured(task: Task, peaks: dict[Backend, Row]) -> Row:
    """Measure a stage, and first those of its peaks that are not in `peaks` yet."""
    for backend in task.products:
        if backend not in peaks:
            peaks[backend] = run_in_subprocess(measure_peak, backend, f"products, {backend}")
        if peaks[backend].failure:
            return Row(task.name, failure=peaks[backend].failure)
    peak, attention_peak = (1e9 * peaks[each].median("product_gops") for each in task.products)
    stage = partial(measure, peak=peak, attention_peak=attention_peak)
    return run_in_subprocess(stage, task, task.name)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        return [
            f"{row.median('operations_g'):,.1f}",
            f"{row.median('published_operations_g'):,.1f}",
            format_number(row.median("fewest_operations_g"), "{:,.1f}"),
            f"{row.median('moved_gb'):.3f}",
            format_number(row.median("intensity"), "{:.0f}"),
            format_number(row.median("product_gops"), "{:,.0f}"),
            format_number(row.median("copy_gbs"), "{:.1f}"),
            f"{row.median('floor_s'):.4g}",
            f"{row.median('run_s'):.4g}",
            f"{row['run_s'].range:.2g}",
            f"{100 * row.median('share'):.0f} %",
            f"{100 * row.median('published_floor_s') / row.median('run_s'):.0f} %",
            format_number(100 * row.median("fewest_floor_s") / row.median("run_s"), "{:.0f} %"),
            str(row.metadata["bound_by"]),
        ]

    header = ["GFLOP", "published", "fewest", "GB", "FLOP/byte", "peak, GFLOP/s", "bandwidth, GB/s"]
    times = ["floor, s", "run, s", "spread, s", "of the roof", "with published FLOP"]
    return row_table([*header, *times, "with fewest FLOP", "bound by"], rows, cells)


def draw_roofs(axes: "Axes", rows: list[Row]) -> None:
    """Draw rates over intensities, and each row's own roof."""
    drawn = [row for row in rows if not row.failure and "intensity" in row.measures]
    for row in drawn:
        x, roof = row.median("intensity"), row.median("product_gops")
        rate = row.median("operations_g") / row.median("run_s")
        (mark,) = axes.loglog([x], [rate], "o", label=row.name)
        xs, ys = [1.0, max(1e4, x)], [roof, roof]
        if "copy_gbs" in row.measures:
            slope = row.median("copy_gbs")
            xs = [min(1.0, x), roof / slope, max(1e4, x)]
            ys = [xs[0] * slope, roof, roof]
        axes.loglog(xs, ys, color=mark.get_color(), linewidth=0.6)
    axes.set(xlabel="FLOP a byte", ylabel="GFLOP/s")
    if drawn:
        axes.legend(fontsize="x-small", loc="lower right")


@app.command()
def main(
    bundle: BundleArgument = None,
    full_size: FullSize = None,
    frames: Frames = None,
    size: Size = None,
    device: Annotated[str | None, typer.Option(help="One alone; default: all that work.")] = None,
    precision: Annotated[str | None, typer.Option(help="One alone, such as int8.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs a row, after a warm-up.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="The built-in model.")] = False,
    output: Output = Path("roofline.json"),
) -> None:
    """Measure how much of the machine's peak each stage reaches."""
    require_modules("benchmark", "matplotlib", "onnx", "onnx_ir", "sympy")
    require_output(output)
    model = open_model(bundle, full_size, quick)
    writer = ResultsWriter("roofline", model, output)
    request, only = request_for(model, size=size, frames=frames), (device, precision)
    measure_stages(writer, model, request, runs, [name for name in only if name])
    rows = writer.rows
    writer.publish(rows, table(rows), lambda axes: draw_roofs(axes, rows))


if __name__ == "__main__":
    run_command(app, "roofline.py", PARTIAL_RESULTS)
