"""Compare this runtime with PyTorch and other projects' tools on the same random weights.

    python benchmarks/peers.py                              the built-in model's layout
    python benchmarks/peers.py --full-size FOLDER           hummingbird-0.7b, 16 frames of 512x320
    python benchmarks/peers.py --only "torch.compile bf16" --only "openvino int8"

Each row runs one stage in a process of its own on the same inputs, those of a real video: its last
step, its first frames (the first row runs all steps in float32). The rows are PyTorch eager and
`torch.compile`, in float32 and bfloat16; torchao's static int8 for x86 through Inductor; the graph
of `torch.onnx.export` in ONNX Runtime and OpenVINO with their defaults; the default int8 of optimum
and of NNCF; this project's bundle on every working backend. torchao and NNCF calibrate on the
video's other steps and frames; the bundle of `--quantized` was calibrated before.
Exporting and quantizing are rows without a run time. Agreement is the signal-to-noise ratio against
PyTorch eager float32. What fails is a row with its reason. A decoder's time is that of one frame.
Modules that only some rows need are imported by those, so that a row's memory is its own.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from hummingbird_edge.benchmarks.lib.backends import working_backends
from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.machine import peak_mib
from hummingbird_edge.benchmarks.lib.model_under_test import random_copy, random_full_size
from hummingbird_edge.benchmarks.lib.options import (
    Frames,
    FullSize,
    Output,
    Processes,
    Quantized,
    Size,
)
from hummingbird_edge.benchmarks.lib.peer_stage import (
    EAGER,
    LOADERS,
    PREPARATIONS,
    THIS_RUNTIME,
    PeerStage,
)
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.stage_inputs import StageInputs
from hummingbird_edge.benchmarks.lib.table import format_number, row_table
from hummingbird_edge.benchmarks.lib.timing import time_runs
from hummingbird_edge.benchmarks.lib.workload import request_for, shape_text
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError
from hummingbird_edge.runtime.placement.trial import snr_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("unet", "vae_decoder")
_MAX_DB = 200.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    stages: Sequence[str]
    frames: int | None
    size: str | None
    runs: int
    """Timed runs a row."""
    processes: int
    """Processes a row."""
    only: Sequence[str]
    """Texts of which one is in a row's name; none for all rows."""


def measure(task: PeerStage) -> Row:
    """Measure one row, in a process that does nothing else."""
    started = time.perf_counter()
    run = LOADERS[task.tool](task)
    load_s = time.perf_counter() - started
    output, seconds = time_runs(run, task.runs)
    if not np.isfinite(output).all():
        raise RequestError("its output has NaN")
    frames = task.sizes["frames"] if task.stage.endswith("decoder") else 1
    measures: dict[str, tuple[float, ...]] = {
        "run_s": tuple(s / frames for s in seconds[1:]),
        # Some tools compile in the first run.
        "ready_s": (load_s + seconds[0],),
        "peak_mib": (peak_mib(),),
    }
    if task.tool == EAGER:
        np.save(task.reference, output)
    elif task.reference.exists():
        agreement_db = min(snr_db(output, np.load(task.reference)), _MAX_DB)
        measures["agreement_db"] = (round(agreement_db, 1),)
    metadata = {"sizes": dict(task.sizes), "bundle_sha256": Bundle.open(task.bundle).digest}
    return Row(task.name, measures, metadata)


def prepare(task: PeerStage) -> Row:
    """Export or quantize for a row, in a process that does nothing else."""
    started = time.perf_counter()
    PREPARATIONS[task.tool][1](task)
    seconds = time.perf_counter() - started
    return Row(task.name, {"ready_s": (seconds,), "peak_mib": (peak_mib(),)})


def eager_task(bundle: Bundle, stage: str, plan: Plan, folder: Path) -> PeerStage:
    """Return a stage in PyTorch; raises RequestError for one that takes no part in a video."""
    if stage not in bundle.manifest.stages:
        known = ", ".join(bundle.manifest.stages)
        raise RequestError(f"{bundle.manifest.name} has no stage {stage!r}: choose from {known}")
    decoder = "tiny" if stage == "tiny_decoder" else "full"
    request = request_for(bundle, decoder, plan.size, plan.frames)
    sizes = request.stage_sizes(bundle.manifest).get(stage)
    if sizes is None:
        raise RequestError(f"{stage} takes no part in a video: choose from {', '.join(STAGES)}")
    return PeerStage(EAGER, bundle.folder, stage, sizes, plan.runs, folder, shape_text(request))


def tasks(eager: PeerStage, quantized: Bundle | None) -> Iterator[PeerStage]:
    """Yield the rows of one stage in their order."""
    for tool in LOADERS:
        if tool != THIS_RUNTIME:
            yield replace(eager, tool=tool)
    for bundle in filter(None, (Bundle.open(eager.bundle), quantized)):
        for backend in working_backends(eager.stage, bundle.manifest.stage(eager.stage).precisions):
            if bundle is not quantized or backend.precision is Precision.INT8:
                own = replace(eager, tool=THIS_RUNTIME, bundle=bundle.folder, backend=backend)
                yield replace(own, title=f"{THIS_RUNTIME}, {backend}")


def chosen_tasks(
    bundle: Bundle, quantized: Bundle | None, plan: Plan, folder: Path
) -> list[PeerStage]:
    """Return the rows that were asked for."""
    every = every_task(bundle, quantized, plan, folder)
    return [task for task in every if not plan.only or any(text in task.name for text in plan.only)]


def every_task(
    bundle: Bundle, quantized: Bundle | None, plan: Plan, folder: Path
) -> list[PeerStage]:
    """Return all rows of the stages that were asked for."""
    eager = [eager_task(bundle, stage, plan, folder) for stage in plan.stages]
    return [task for each in eager for task in tasks(each, quantized)]


def require_rows(only: Sequence[str], every: Sequence[PeerStage]) -> None:
    """Raise RequestError for a text that is in no row's name."""
    for text in only:
        if not any(text in task.name for task in every):
            names = "; ".join(task.name for task in every)
            raise RequestError(f"--only {text!r} is in no row's name: choose from {names}")


def measure_stages(
    writer: ResultsWriter, bundle: Bundle, quantized: Bundle | None, plan: Plan, folder: Path
) -> None:
    """Record the inputs, then measure every row of every stage; raises HummingbirdError."""
    chosen = chosen_tasks(bundle, quantized, plan, folder)
    request = request_for(bundle, size=plan.size, frames=plan.frames)
    inputs = StageInputs(bundle.folder, request, folder)
    if failure := writer.measure(StageInputs.record, inputs, inputs.name).failure:
        raise HummingbirdError(f"there are no inputs to measure with: {failure}")
    for task in chosen:
        if task.tool in PREPARATIONS:
            preparation = replace(task, title=PREPARATIONS[task.tool][0])
            writer.measure(prepare, preparation, preparation.name)
        writer.measure(measure, task, task.name, plan.processes)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, each compared with PyTorch eager's of its stage."""
    eager_s = {
        row.name.partition(":")[0]: row.median("run_s") for row in rows if row.name.endswith(EAGER)
    }

    def cells(row: Row) -> list[str]:
        start = [f"{row.median('ready_s'):.1f}", f"{row.median('peak_mib'):,.0f}"]
        if "run_s" not in row.measures:
            return ["", "", "", *start]
        run = row["run_s"]
        speedup = eager_s.get(row.name.partition(":")[0], math.nan) / run.median
        agreement = format_number(row.median("agreement_db"), "{:.1f} dB")
        ratio = format_number(speedup, "{:.2f}x")
        return [f"{run.median:.4g}", f"{run.range:.2g}", ratio, *start, agreement]

    header = ["run, s", "spread, s", "speedup over eager", "load and first run, s", "peak MiB"]
    return row_table([*header, "agreement"], rows, cells)


def draw_times(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row that has a run time."""
    unit = "seconds a U-Net step or a frame, medians"
    stacked_bars(axes, [row for row in rows if "run_s" in row.measures], ["run_s"], ["run"], unit)


def stages_to_measure(stages: str | None, quick: bool) -> Sequence[str]:
    """Return the names in `stages`, else the defaults; raises RequestError for an unknown one."""
    names = stages.split(",") if stages else STAGES[-1:] if quick else STAGES
    known = Bundle.open(BUILTIN).manifest.stages
    for name in names:
        if name not in (*known, "tiny_decoder"):
            raise RequestError(f"there is no stage {name!r}: choose from {', '.join(known)}")
    return names


@app.command()
def main(
    full_size: FullSize = None,
    quantized: Quantized = None,
    stages: Annotated[
        str | None, typer.Option(help="Default: unet,vae_decoder; --quick: vae_decoder.")
    ] = None,
    frames: Frames = None,
    size: Size = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs a row, after a warm-up.")] = 3,
    processes: Processes = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Rows with this text in their name; may be given several times."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in model's decoder, in two minutes.")
    ] = False,
    output: Output = Path("peers.json"),
) -> None:
    """Compare this runtime with PyTorch and other projects' tools."""
    require_modules("benchmark", "matplotlib", "torch")
    if quick and full_size:
        raise RequestError("--quick measures the built-in model's layout: leave --full-size out")
    require_output(output)
    measured = stages_to_measure(stages, quick)
    plan = Plan(measured, frames, size, runs, processes, only or ())
    int8 = None if quantized is None else Bundle.open(quantized)
    path = None if full_size is None else random_full_size(full_size)
    # A copy of the built-in model has its rows, and takes a minute to export.
    require_rows(plan.only, every_task(Bundle.open(path or BUILTIN), int8, plan, Path()))
    with tempfile.TemporaryDirectory(dir=full_size, ignore_cleanup_errors=True) as folder:
        bundle = Bundle.open(path or random_copy(BUILTIN, Path(folder)))
        writer = ResultsWriter("peers", bundle, output)
        measure_stages(writer, bundle, int8, plan, Path(folder))
    rows = writer.rows
    writer.publish(rows, table(rows), lambda axes: draw_times(axes, rows))


if __name__ == "__main__":
    run_command(app, "peers.py", PARTIAL_RESULTS)
