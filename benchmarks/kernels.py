"""Measure the speedup of each kernel in each engine, at the shapes of the full-size U-Net.

    python benchmarks/kernels.py                 three levels of 512 x 320 and 16 frames, 5 minutes
    python benchmarks/kernels.py --quick         the coarsest level alone, 2 frames
    python benchmarks/kernels.py --kernel "upsampling convolution" --frames 4

A layer is run with the kernel ("on") and as it is usually written ("off"): as modules in PyTorch,
elsewhere as the graphs that `hb-export` writes for the device, in int8 too where the layer has
weights. All weights are random. Off and on run in turns in one process, so that a busy machine
slows both; the speedup is the median of their ratios. The embedding is left out: it takes
microseconds of a step.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.backends import working_backends
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import markdown_table, row_table
from hummingbird_edge.benchmarks.lib.timing import Run
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.placement.trial import snr_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.benchmarks.lib.variants import KernelVariants, Level

PYTORCH = "PyTorch fp32"
Array = NDArray[np.float32]
_FRAMES, _QUICK_FRAMES = 16, 2
_MAX_DB = 200.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def time_in_turns(
    off: Run, on: Run, runs: int
) -> tuple[tuple[float, ...], tuple[float, ...], Array]:
    """Time both in turns after a warm-up of each; return the kernel's output too."""
    off()
    output = on()
    off_s, on_s = list[float](), list[float]()
    for _ in range(runs):
        for run, seconds in ((off, off_s), (on, on_s)):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    return tuple(off_s), tuple(on_s), output


def measure(
    kernel: str, level: "Level", frames: int, backends: list[Backend | None], runs: int
) -> Iterator[Row]:
    """Yield a row a backend, None for PyTorch; a device that fails is a row with its reason."""
    from hummingbird_edge.benchmarks.lib.eager import eager_run
    from hummingbird_edge.benchmarks.lib.variants import kernel_variants

    variants = kernel_variants(kernel, level, frames)
    reference = eager_run(variants.baseline, variants.inputs)()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for backend in backends:
            is_int8 = backend is not None and backend.precision is Precision.INT8
            if is_int8 and not variants.has_products:
                continue
            engine = PYTORCH if backend is None else str(backend)
            name = f"{kernel}, {level.channels} channels, {engine}"
            metadata = {"kernel": kernel, "engine": engine}
            try:
                measures = measure_on(variants, backend, reference, runs, Path(folder))
            except DeviceError as error:
                yield Row(name, metadata=metadata, failure=str(error))
            else:
                yield Row(name, measures, metadata)


def measure_on(
    variants: "KernelVariants", backend: Backend | None, reference: Array, runs: int, folder: Path
) -> dict[str, tuple[float, ...]]:
    """Return the measures of one backend, None for PyTorch; raises DeviceError."""
    from hummingbird_edge.benchmarks.lib.eager import eager_run
    from hummingbird_edge.benchmarks.lib.variants import graph_run

    if backend is None:
        off, on = (
            eager_run(module, variants.inputs) for module in (variants.baseline, variants.fused)
        )
    else:
        off, on = (graph_run(variants, is_fused, backend, folder) for is_fused in (False, True))
    off_s, on_s, output = time_in_turns(off, on, runs)
    gains = tuple(a / b for a, b in zip(off_s, on_s, strict=True))
    agreement_db = round(min(snr_db(output, reference), _MAX_DB), 1)
    return {"off_s": off_s, "on_s": on_s, "gain": gains, "agreement_db": (agreement_db,)}


def table(rows: list[Row]) -> str:
    """Return two tables: the rows, and the speedups of each kernel at each width."""

    def cells(row: Row) -> list[str]:
        times = [f"{1e3 * row.median(name):.1f}" for name in ("off_s", "on_s")]
        spread, gain = f"{1e3 * row['on_s'].range:.1f}", row["gain"]
        gained = f"{gain.median:.2f}x", f"{gain.min:.2f} to {gain.max:.2f}"
        return [*times, spread, *gained, f"{row.median('agreement_db'):.0f} dB"]

    header = ["off, ms", "on, ms", "spread, ms", "speedup", "range", "agreement"]
    engines = list(dict.fromkeys(str(row.metadata["engine"]) for row in rows))
    kernels = list(dict.fromkeys(str(row.metadata["kernel"]) for row in rows))
    gains = [[kernel, *(_gains(rows, kernel, engine) for engine in engines)] for kernel in kernels]
    return f"{row_table(header, rows, cells)}\n\n{markdown_table(['speedup', *engines], gains)}"


def _gains(rows: list[Row], kernel: str, engine: str) -> str:
    """Return the speedups of a kernel in an engine, level by level."""
    wanted = {"kernel": kernel, "engine": engine}.items()
    found = [row for row in rows if wanted <= row.metadata.items()]
    return " / ".join("failed" if row.failure else f"{row.median('gain'):.2f}" for row in found)


def draw_gains(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row, from a speedup of 1."""
    done = [row for row in rows if not row.failure][::-1]
    gains = [row.median("gain") for row in done]
    axes.barh([row.name for row in done], [gain - 1 for gain in gains], left=1.0)
    axes.set(xscale="log", xlabel="speedup with the kernel, medians")


@app.command()
def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="The coarsest level alone, 2 frames.")
    ] = False,
    kernel: Annotated[str | None, typer.Option(help="One alone, by its row's name.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of the clip; default: 16.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each variant.")] = 5,
    output: Output = Path("kernels.json"),
) -> None:
    """Measure the speedup of each kernel in each engine."""
    require_modules("benchmark", "matplotlib", "torch", "onnx_ir")
    from hummingbird_edge.benchmarks.lib.variants import LEVELS, kernels_of

    require_output(output)
    names = kernels_of(LEVELS[-1])
    if kernel not in (None, *names):
        raise RequestError(f"there is no kernel {kernel!r}: choose from {', '.join(names)}")
    backends = [None, *working_backends("unet", ["float32", "int8"])]
    writer = ResultsWriter("kernels", None, output)
    frames = frames or (_QUICK_FRAMES if quick else _FRAMES)
    for level in LEVELS[-1:] if quick else LEVELS:
        for name in kernels_of(level):
            if kernel in (None, name):
                for row in measure(name, level, frames, backends, runs):
                    writer.add(row)
    rows = writer.rows
    writer.publish(rows, table(rows), lambda axes: draw_gains(axes, rows))


if __name__ == "__main__":
    run_command(app, "kernels.py", PARTIAL_RESULTS)
