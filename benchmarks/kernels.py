"""What each kernel brings, on and off, in each engine, at the shapes of the full-size U-Net.

    python benchmarks/kernels.py                 three levels of 512 x 320 and 16 frames, 5 minutes
    python benchmarks/kernels.py --quick         the coarsest level alone

"Off" is the plain way to write a layer, "on" the kernel: its PyTorch form in PyTorch, its graph as
`hb-export` writes it for the device elsewhere. All weights are random. Off and on run in turns in
one process, so that a busy machine slows both; a gain is the median of their ratios. The embedding
is left out: it takes microseconds of a step.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.engines import backends_here
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.repeat import Run
from hummingbird_edge.benchmarks.lib.table import by_row, markdown
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.placement.trial import snr_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.benchmarks.lib.forms import Case, Level

PYTORCH = "PyTorch fp32"
Array = NDArray[np.float32]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def in_turns(off: Run, on: Run, runs: int) -> tuple[tuple[float, ...], tuple[float, ...], Array]:
    """Time both in turns after one run of each; returns the kernel's output too."""
    off()
    output = on()
    off_s, on_s = list[float](), list[float]()
    for _ in range(runs):
        for run, seconds in ((off, off_s), (on, on_s)):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    return tuple(off_s), tuple(on_s), output


def measure(case: "Case", level: "Level", ways: list[Backend | None], runs: int) -> Iterator[Row]:
    """Yield a row for each way, None for PyTorch; a device that fails is a row with its reason."""
    from hummingbird_edge.benchmarks.lib.forms import in_device, in_pytorch

    truth = in_pytorch(case.off, case.inputs)()
    with tempfile.TemporaryDirectory() as folder:
        for backend in ways:
            engine = PYTORCH if backend is None else str(backend)
            name = f"{case.kernel}, {level.channels} channels, {engine}"
            facts = {"kernel": case.kernel, "engine": engine}
            try:
                if backend is None:
                    off, on = (in_pytorch(module, case.inputs) for module in (case.off, case.on))
                else:
                    off, on = (
                        in_device(case, kernel_on, backend, Path(folder))
                        for kernel_on in (False, True)
                    )
                off_s, on_s, output = in_turns(off, on, runs)
            except DeviceError as error:
                yield Row(name, facts=facts, failure=str(error))
                continue
            gains = tuple(a / b for a, b in zip(off_s, on_s, strict=True))
            near = round(min(snr_db(output, truth), 200.0), 1)
            measures = {"off_s": off_s, "on_s": on_s, "gain": gains, "agreement_db": (near,)}
            yield Row(name, measures, facts)


def table(rows: list[Row]) -> str:
    """Return the rows as two tables: each, and the gains of each kernel at each width."""

    def cells(row: Row) -> list[str]:
        times = [f"{1e3 * row.median(name):.1f}" for name in ("off_s", "on_s")]
        spread, gain = f"{1e3 * row['on_s'].range:.1f}", row["gain"]
        gained = f"{gain.median:.2f}x", f"{gain.least:.2f} to {gain.most:.2f}"
        return [*times, spread, *gained, f"{row.median('agreement_db'):.0f} dB"]

    header = ["off, ms", "on, ms", "spread, ms", "gain", "of the runs", "agrees to"]
    engines = list(dict.fromkeys(str(row.facts["engine"]) for row in rows))
    kernels = list(dict.fromkeys(str(row.facts["kernel"]) for row in rows))
    gains = [[kernel, *(_gains(rows, kernel, engine) for engine in engines)] for kernel in kernels]
    return f"{by_row(header, rows, cells)}\n\n{markdown(['gain', *engines], gains)}"


def _gains(rows: list[Row], kernel: str, engine: str) -> str:
    """Return a kernel's gains in an engine, level by level."""
    wanted = {"kernel": kernel, "engine": engine}.items()
    found = [row for row in rows if wanted <= row.facts.items()]
    return " / ".join("failed" if row.failure else f"{row.median('gain'):.2f}" for row in found)


def draw_gains(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row, from no gain."""
    done = [row for row in rows if not row.failure][::-1]
    gains = [row.median("gain") for row in done]
    axes.barh([row.name for row in done], [gain - 1 for gain in gains], left=1.0)
    axes.set(xscale="log", xlabel="times as fast with the kernel, medians")


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="The coarsest level alone.")] = False,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each form.")] = 5,
    output: Output = Path("kernels.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib", "torch", "onnx_ir")
    from hummingbird_edge.benchmarks.lib.forms import LEVELS, cases

    require_output(output)
    ways = [None, *backends_here("unet", ["float32"])]
    ledger = Ledger("kernels", None, output)
    for level in LEVELS[-1:] if quick else LEVELS:
        for case in cases(level):
            for row in measure(case, level, ways, runs):
                ledger.add(row)
    ledger.publish(ledger.rows, table(ledger.rows), lambda axes: draw_gains(axes, ledger.rows))


if __name__ == "__main__":
    run_command(app, "kernels.py", KEPT)
