"""How much of what the machine can do each stage reaches: the roofline model.

    python benchmarks/roofline.py                            the built-in model
    python benchmarks/roofline.py --full-size FOLDER         hummingbird-0.7b, 16 frames of 512x320

The ceiling of operations is a large product through the same engine in the same precision, that of
bytes a large copy in memory; both are measured in this run, the best of several. A stage's floor is
the longer of its operations over the one and its bytes over the other, as `work.py` counts them
from the graph, in numbers as wide as the precision; the share is floor over measured time.

Source: Williams, Waterman, Patterson 2009, "Roofline".
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from hummingbird_edge.benchmarks.apart import measure_apart
from hummingbird_edge.benchmarks.machine import peak_mib
from hummingbird_edge.benchmarks.publish import markdown, publish, require_output
from hummingbird_edge.benchmarks.record import Record, Row
from hummingbird_edge.benchmarks.subject import open_subject, size_of
from hummingbird_edge.benchmarks.work import work_of
from hummingbird_edge.runtime.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.placement import Option, precisions_of
from hummingbird_edge.runtime.probe import known_devices, probe
from hummingbird_edge.runtime.request import Request, parse_size
from hummingbird_edge.runtime.session import open_session
from hummingbird_edge.runtime.text_to_video import TextToVideo
from hummingbird_edge.runtime.trial import run_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("text_encoder", "unet", "vae_decoder")
WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes a number."""
SIDE, COPY_BYTES, TRIES = 2048, 1 << 28, 7

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Task:
    """One stage on one device in one precision."""

    bundle: Path
    stage: str
    sizes: dict[str, int]
    device: str
    precision: str
    runs: int
    size: str
    """Of the video, in words."""

    @property
    def option(self) -> Option:
        """The way itself."""
        return Option(Device.parse(self.device), self.precision)

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.stage}, {self.device} {self.precision}, {self.size}"


def measure(task: Task) -> Row:
    """Time a stage and the product that is its ceiling, in a process that does nothing else."""
    bundle = Bundle.open(task.bundle)
    rate = product_rate(task.option)
    trial = run_trial(bundle, task.stage, task.option, task.sizes, None, task.runs, enough_s=1e9)
    # The graph without a device's own operators, which have other shapes.
    graph = bundle.graph(task.stage, None, bundle.manifest.precisions(task.stage)[0])
    work, width = work_of(graph, task.sizes), WIDTHS[task.precision]
    measures = {
        "run_s": trial.seconds,
        "product_gops": (rate / 1e9,),
        "operations_g": (work.operations / 1e9,),
        "moved_gb": (work.bytes(width) / 1e9,),
        "intensity": (work.operations / work.bytes(width),),
        "peak_mib": (peak_mib(),),
    }
    return Row(task.name, measures)


def product_rate(option: Option) -> float:
    """Return operations a second of a product of two matrices of `SIDE` x `SIDE`."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(product_graph(Path(folder), option.graph), option)
        x = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
        best = float("inf")
        for _ in range(TRIES):
            started = time.perf_counter()
            session.run({"x": x})
            best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best


def product_graph(folder: Path, graph: str) -> Path:
    """Write a product with a weight, in int8 or float16 where `graph` says so."""
    import onnx
    import onnx_ir as ir
    from onnx import TensorProto, helper, numpy_helper

    from hummingbird_edge.quantize.half import to_float16
    from hummingbird_edge.quantize.layers import find_layers
    from hummingbird_edge.quantize.ranges import Ranges
    from hummingbird_edge.quantize.static import quantize

    weight = np.random.default_rng(1).standard_normal((SIDE, SIDE), np.float32) / SIDE**0.5
    shape = [SIDE, SIDE]
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    path = folder / "product.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]), path)
    model = ir.load(path)
    if graph == "int8":
        limits = np.full(1, -4.0), np.full(1, 4.0)
        layers = find_layers(model)
        ranges = Ranges({str(layer.activation.name): limits for layer in layers})
        quantize(model, ranges, ())
    elif graph == "float16":
        to_float16(model, ())
    ir.save(model, path)
    return path


def copy_rate() -> float:
    """Return bytes a second of a copy in memory, what is read and what is written."""
    source = np.ones(COPY_BYTES // 8)
    target, best = np.empty_like(source), float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - started)
    return 2 * COPY_BYTES / best


def with_floor(row: Row, bytes_s: float) -> Row:
    """Add the floor and the share of the ceiling that was reached."""
    if row.failure:
        return row
    operations, moved = row.median("operations_g") * 1e9, row.median("moved_gb") * 1e9
    by_operations = operations / (row.median("product_gops") * 1e9)
    by_bytes = moved / bytes_s
    floor = max(by_operations, by_bytes)
    shares = tuple(floor / seconds for seconds in row.measures["run_s"])
    bound = "operations" if by_operations >= by_bytes else "bytes"
    measures = {**row.measures, "floor_s": (floor,), "share": shares, "copy_gbs": (bytes_s / 1e9,)}
    return Row(row.name, measures, {"bound_by": bound})


def tasks(bundle: Bundle, request: Request, runs: int) -> Iterator[Task]:
    """Yield every stage on every device that works here in every precision it has."""
    for stage, sizes in TextToVideo(bundle, "cpu").stage_sizes(request).items():
        for name in known_devices():
            if not probe(name).works:
                continue
            graphs = bundle.manifest.precisions(stage)
            for precision in precisions_of(stage, Device.parse(name), graphs):
                if stage != "text_encoder" or precision in ("fp32", "int8"):
                    size = size_of(request)
                    yield Task(bundle.folder, stage, sizes, name, precision, runs, size)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = []
    for row in rows:
        if row.failure:
            lines.append([row.name, f"failed: {row.failure}"])
            continue
        lines.append(
            [
                row.name,
                f"{row.median('operations_g'):,.1f}",
                f"{row.median('moved_gb'):.3f}",
                f"{row.median('intensity'):.0f}",
                f"{row.median('product_gops'):,.0f}",
                f"{row.median('copy_gbs'):.1f}",
                f"{row.median('floor_s'):.4g}",
                f"{row.median('run_s'):.4g}",
                f"{row['run_s'].range:.2g}",
                f"{100 * row.median('share'):.0f} %",
                str(row.facts["bound_by"]),
            ]
        )
    header = ["", "Gop", "GB", "op/byte", "ceiling, Gop/s", "ceiling, GB/s", "floor, s", "run, s"]
    return markdown([*header, "spread, s", "of the ceiling", "bound by"], lines)


def draw_roofs(axes: "Axes", rows: list[Row]) -> None:
    """Draw rates over intensities, and each row's own roof."""
    drawn = [row for row in rows if not row.failure]
    for row in drawn:
        x, roof = row.median("intensity"), row.median("product_gops")
        reached = row.median("operations_g") / row.median("run_s")
        (mark,) = axes.loglog([x], [reached], "o", label=row.name)
        knee = roof / row.median("copy_gbs")
        xs = [min(1.0, x), knee, max(1e4, x)]
        ys = [xs[0] * row.median("copy_gbs"), roof, roof]
        axes.loglog(xs, ys, color=mark.get_color(), linewidth=0.6)
    axes.set(xlabel="operations a byte", ylabel="Gop/s")
    if drawn:
        axes.legend(fontsize="x-small", loc="lower right")


@app.command()
def main(
    bundle: Annotated[Path | None, typer.Argument(help="Else the built-in one.")] = None,
    full_size: Annotated[
        Path | None, typer.Option(help="A folder for the published size, random weights.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Else the bundle's default.")] = None,
    size: Annotated[str | None, typer.Option(help="As 512x320.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs a row, after one.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="The built-in model.")] = False,
    output: Annotated[Path, typer.Option(help="JSON; .md and .png beside.")] = Path(
        "roofline.json"
    ),
) -> None:
    """Measure, print, write."""
    require_modules("roofline.py", "benchmark", "matplotlib", "onnx", "onnx_ir", "sympy")
    require_output(output)
    subject = open_subject(bundle, full_size, quick)
    width, height = parse_size(size)
    asked = {"frames": frames, "width": width, "height": height}
    request = Request.for_model(subject.manifest, "a cat", 0, "full", **asked)
    bytes_s, rows = copy_rate(), []
    for task in tasks(subject, request, runs):
        rows.append(with_floor(measure_apart(measure, task, task.name), bytes_s))
        typer.echo(f"{task.name}: {rows[-1].failure or 'done'}", err=True)
    record = Record.of("roofline", subject, rows)
    publish(record, table(rows), lambda axes: draw_roofs(axes, rows), output)


if __name__ == "__main__":
    run_command(app, "roofline.py")
