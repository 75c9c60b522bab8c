"""How much of what the machine can do each stage reaches: the roofline model.

    python benchmarks/roofline.py                            the built-in model
    python benchmarks/roofline.py --full-size FOLDER         hummingbird-0.7b, 16 frames of 512x320

The ceiling of operations is a chain of large products through the same engine in the same
precision, that of bytes a large copy in memory by all cores; both are measured in this run, the
best of several. A stage's floor is the longer of its operations over the one and its bytes over the
other, as `work.py` counts them from the graph, in numbers as wide as the precision; the share is
floor over measured time. In int8, attention's products, which stay as they are, count at the
ceiling of the numbers around them, and a text encoder, whose weights alone are small, altogether.

A small model's weights stay in the cache between runs, and then its bytes are no floor: a share
above 100 % says so. Devices with a memory of their own have a ceiling of operations alone.

Source: Williams, Waterman, Patterson 2009, "Roofline".
"""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from hummingbird_edge.benchmarks.lib.apart import measure_apart
from hummingbird_edge.benchmarks.lib.engines import backends_here
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.machine import peak_mib
from hummingbird_edge.benchmarks.lib.options import BundleArgument, Frames, FullSize, Output, Size
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.subject import open_subject, size_of
from hummingbird_edge.benchmarks.lib.table import by_row, shown
from hummingbird_edge.benchmarks.lib.video import request_for
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.placement.trial import run_trial
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("text_encoder", "unet", "vae_decoder")
WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes a number."""
SIDE, CHAIN, COPY_BYTES, TRIES = 2048, 4, 1 << 28, 7

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Task:
    """One stage on one device in one precision."""

    bundle: Path
    stage: str
    sizes: dict[str, int]
    backend: Backend
    runs: int
    size: str
    """Of the video, in words."""

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.stage}, {self.backend}, {self.size}"


def measure(task: Task) -> Row:
    """Time a stage and the product that is its ceiling, in a process that does nothing else."""
    from hummingbird_edge.benchmarks.lib.work import work_of

    bundle = Bundle.open(task.bundle)
    rate = attention_rate = product_rate(arithmetic(task))
    if task.backend.precision == "int8" and task.stage != "text_encoder":
        rate = product_rate(task.backend)
    trial = run_trial(bundle, task.stage, task.backend, task.sizes, None, task.runs, enough_s=1e9)
    # The graph without a device's own operators, which have other shapes.
    graph = bundle.graph(task.stage, None, bundle.manifest.stage(task.stage).precisions[0])
    work, width = work_of(graph, task.sizes), WIDTHS[task.backend.precision]
    measures = {
        "run_s": trial.seconds,
        "product_gops": (rate / 1e9,),
        "operations_g": ((work.operations + work.attention) / 1e9,),
        "operations_floor_s": (work.operations / rate + work.attention / attention_rate,),
        "moved_gb": (work.bytes(width) / 1e9,),
        "intensity": ((work.operations + work.attention) / work.bytes(width),),
        "peak_mib": (peak_mib(),),
    }
    return Row(task.name, measures)


def arithmetic(task: Task) -> Backend:
    """Return the way without int8: what products have that are between activations."""
    if task.backend.precision != "int8":
        return task.backend
    text = task.stage == "text_encoder"
    return replace(task.backend, precision=Precision.FP32 if text else task.backend.arithmetic)


def product_rate(backend: Backend) -> float:
    """Return operations a second of products of matrices of `SIDE` x `SIDE`, one after another."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(product_graph(Path(folder), backend.graph), backend)
        x = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
        best = float("inf")
        for _ in range(TRIES):
            started = time.perf_counter()
            session.run({"x": x})
            best = min(best, time.perf_counter() - started)
    return CHAIN * 2 * SIDE**3 / best


def product_graph(folder: Path, graph: str) -> Path:
    """Write products with weights, in int8 or float16 where `graph` says so."""
    import onnx
    import onnx_ir as ir
    from onnx import TensorProto, helper, numpy_helper

    from hummingbird_edge.quantize.half import to_float16
    from hummingbird_edge.quantize.layers import find_layers
    from hummingbird_edge.quantize.ranges import Ranges
    from hummingbird_edge.quantize.static import quantize

    rng, shape = np.random.default_rng(1), [SIDE, SIDE]
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape, np.float32) / SIDE**0.5, f"w{index}")
        for index in range(CHAIN)
    ]
    values = ["x", *(f"y{index}" for index in range(1, CHAIN)), "y"]
    made = helper.make_graph(
        [
            helper.make_node(
                "MatMul", [values[index], f"w{index}"], [values[index + 1]], f"p{index}"
            )
            for index in range(CHAIN)
        ],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
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
    """Return bytes a second of a copy in memory by all cores, read and written."""
    count = usable_cores()
    sources = np.array_split(np.ones(COPY_BYTES // 8), count)
    targets, best = [np.ones_like(source) for source in sources], float("inf")
    with ThreadPoolExecutor(count) as pool:  # NumPy copies without Python's lock
        for _ in range(TRIES):
            started = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best = min(best, time.perf_counter() - started)
    return 2 * COPY_BYTES / best


def with_floor(row: Row, bytes_s: float | None) -> Row:
    """Add the floor and the share of the ceiling that was reached."""
    if row.failure:
        return row
    by_operations, by_bytes = row.median("operations_floor_s"), 0.0
    measures = dict(row.measures)
    if bytes_s is not None:
        by_bytes = row.median("moved_gb") * 1e9 / bytes_s
        measures["copy_gbs"] = (bytes_s / 1e9,)
    floor = max(by_operations, by_bytes)
    measures["floor_s"] = (floor,)
    measures["share"] = tuple(floor / seconds for seconds in row.measures["run_s"])
    bound = "operations" if by_operations >= by_bytes else "bytes"
    return replace(row, measures=measures, facts={**row.facts, "bound_by": bound})


def tasks(bundle: Bundle, request: Request, runs: int) -> Iterator[Task]:
    """Yield every stage on every device that works here in every precision it has."""
    for stage, sizes in request.stage_sizes(bundle.manifest).items():
        for backend in backends_here(stage, bundle.manifest.stage(stage).precisions):
            yield Task(bundle.folder, stage, dict(sizes), backend, runs, size_of(request))


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        return [
            f"{row.median('operations_g'):,.1f}",
            f"{row.median('moved_gb'):.3f}",
            f"{row.median('intensity'):.0f}",
            f"{row.median('product_gops'):,.0f}",
            shown(row.median("copy_gbs"), "{:.1f}"),
            f"{row.median('floor_s'):.4g}",
            f"{row.median('run_s'):.4g}",
            f"{row['run_s'].range:.2g}",
            f"{100 * row.median('share'):.0f} %",
            str(row.facts["bound_by"]),
        ]

    header = ["Gop", "GB", "op/byte", "ceiling, Gop/s", "ceiling, GB/s", "floor, s", "run, s"]
    return by_row([*header, "spread, s", "of the ceiling", "bound by"], rows, cells)


def draw_roofs(axes: "Axes", rows: list[Row]) -> None:
    """Draw rates over intensities, and each row's own roof."""
    drawn = [row for row in rows if not row.failure]
    for row in drawn:
        x, roof = row.median("intensity"), row.median("product_gops")
        reached = row.median("operations_g") / row.median("run_s")
        (mark,) = axes.loglog([x], [reached], "o", label=row.name)
        xs, ys = [1.0, max(1e4, x)], [roof, roof]
        if "copy_gbs" in row.measures:
            slope = row.median("copy_gbs")
            xs = [min(1.0, x), roof / slope, max(1e4, x)]
            ys = [xs[0] * slope, roof, roof]
        axes.loglog(xs, ys, color=mark.get_color(), linewidth=0.6)
    axes.set(xlabel="operations a byte", ylabel="Gop/s")
    if drawn:
        axes.legend(fontsize="x-small", loc="lower right")


@app.command()
def main(
    bundle: BundleArgument = None,
    full_size: FullSize = None,
    frames: Frames = None,
    size: Size = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs a row, after one.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="The built-in model.")] = False,
    output: Output = Path("roofline.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib", "onnx", "onnx_ir", "sympy")
    require_output(output)
    subject = open_subject(bundle, full_size, quick)
    request = request_for(subject, size=size, frames=frames)
    ledger, bytes_s = Ledger("roofline", subject, output), copy_rate()
    for task in tasks(subject, request, runs):
        # Another device's memory is not what was copied in.
        near = not task.backend.device.needs_proof
        ledger.add(with_floor(measure_apart(measure, task, task.name), bytes_s if near else None))
    ledger.publish(ledger.rows, table(ledger.rows), lambda axes: draw_roofs(axes, ledger.rows))


if __name__ == "__main__":
    run_command(app, "roofline.py", KEPT)
