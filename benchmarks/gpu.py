"""Time a float16 bundle on a GPU, beside PyTorch in float16 on the same card.

    hb-export build --random-weights --preset hummingbird-0.7b --for gpu BUNDLE
    python benchmarks/gpu.py BUNDLE

Needs a GPU with Vulkan and CUDA, `onnxruntime-webgpu` instead of `onnxruntime`, and PyTorch for
CUDA; five minutes beside the build. A row is one stage of a video in a process of its own, on the
same random inputs: a U-Net step, or as many frames as the decoder takes at once, of which the time
is that of one. PyTorch has the bundle's random weights: float32 without TF32 is what the others
agree with, float16 runs by autocast with weights in float16, once eagerly and once compiled. GPU
memory is the card's after the last run beyond that before the first, as its driver tells.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.machine import device_memory_mib
from hummingbird_edge.benchmarks.lib.options import Frames, Output, Size
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import format_number, row_table
from hummingbird_edge.benchmarks.lib.timing import Run, time_runs
from hummingbird_edge.benchmarks.lib.workload import request_for, shape_text
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_stage
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.trial import example_inputs, snr_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE, HALF, COMPILED = "PyTorch fp32", "PyTorch fp16", "torch.compile fp16"
STAGES = ("unet", "vae_decoder")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and where."""

    device: str
    """Of this runtime."""
    precision: str
    torch_device: str
    frames: int | None
    size: str | None
    runs: int
    """Timed runs a row."""


@dataclass(frozen=True, slots=True)
class Task:
    """One row."""

    tool: str
    """Of PyTorch's names above; anything else is this runtime."""
    bundle: Path
    stage: str
    sizes: Mapping[str, int]
    shape: str
    """Of the video, in words."""
    backend: Backend
    """Of this runtime."""
    torch_device: str
    runs: int
    folder: Path
    """For the reference's output."""

    @property
    def name(self) -> str:
        """The row's name."""
        unit = "a frame of " if self.stage == "vae_decoder" else ""
        return f"{unit}{self.stage}, {self.shape}: {self.tool}"


def measure(task: Task) -> Row:
    """Measure one row, in a process that does nothing else."""
    bundle, before_mib = Bundle.open(task.bundle), gpu_memory_mib()
    started = time.perf_counter()
    load = load_torch if task.tool in (REFERENCE, HALF, COMPILED) else load_this_runtime
    run = load(task, bundle, example_inputs(bundle.manifest, task.stage, task.sizes))
    load_s = time.perf_counter() - started
    output, seconds = time_runs(run, task.runs)
    frames = task.sizes["frames"] if task.stage == "vae_decoder" else 1
    measures: dict[str, tuple[float, ...]] = {
        "run_s": tuple(s / frames for s in seconds[1:]),
        "ready_s": (load_s + seconds[0],),
    }
    after_mib = gpu_memory_mib()
    if before_mib is not None and after_mib is not None:
        measures["device_mib"] = (after_mib - before_mib,)
    reference = task.folder / f"{task.stage}.npy"
    if task.tool == REFERENCE:
        np.save(reference, output)
    elif reference.exists():
        measures["agreement_db"] = (round(snr_db(output, np.load(reference)), 1),)
    return Row(task.name, measures, {"sizes": dict(task.sizes), "bundle_sha256": bundle.digest})


def load_torch(task: Task, bundle: Bundle, arrays: Mapping[str, Any]) -> Run:
    """Load the module with the bundle's random weights; return a run that ends on the host."""
    import torch

    from hummingbird_edge.benchmarks.lib.eager import config_of, inputs_for, random_module

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device, is_half = torch.device(task.torch_device), task.tool != REFERENCE
    module = random_module(config_of(bundle), task.stage).to(device)
    if is_half:
        module = module.half()
    inputs = {name: x.to(device) for name, x in inputs_for(module, arrays).items()}
    network: Any = torch.compile(module) if task.tool == COMPILED else module

    def run() -> "np.ndarray[Any, np.dtype[np.float32]]":
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=is_half):
            output: np.ndarray[Any, np.dtype[np.float32]] = network(**inputs).float().cpu().numpy()
        return output

    return run


def load_this_runtime(task: Task, bundle: Bundle, arrays: Mapping[str, Any]) -> Run:
    """Load the bundle's graph as `hb-run` does."""
    session = open_stage(bundle, task.stage, task.backend, task.sizes)
    return lambda: session.run(arrays)


def gpu_memory_mib() -> float | None:
    """Return the GPU memory in use, in MiB; None where no driver tells."""
    used = device_memory_mib()
    if used is None and (nvidia := shutil.which("nvidia-smi")):
        query = [nvidia, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        told = subprocess.run(query, capture_output=True, text=True).stdout.split()
        with suppress(ValueError):
            used = sum(float(card) for card in told) if told else None
    return used


def tasks(bundle: Bundle, options: "Options", folder: Path) -> Iterator[Task]:
    """Yield the rows in their order, the reference of a stage first."""
    request = request_for(bundle, size=options.size, frames=options.frames)
    backend = Backend.parse(options.device, options.precision)
    for stage in STAGES:
        sizes = request.stage_sizes(bundle.manifest)[stage]
        for tool in (REFERENCE, HALF, COMPILED, f"this runtime, {backend}"):
            yield Task(
                tool,
                bundle.folder,
                stage,
                sizes,
                shape_text(request),
                backend,
                options.torch_device,
                options.runs,
                folder,
            )


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        run = row["run_s"]
        return [
            f"{run.median:.4g}",
            f"{run.range:.2g}",
            f"{row.median('ready_s'):.1f}",
            format_number(row.median("device_mib"), "{:,.0f}"),
            format_number(row.median("agreement_db"), "{:.1f} dB"),
        ]

    header = ["run, s", "spread, s", "load and first run, s", "GPU MiB", "agreement"]
    return row_table(header, rows, cells)


def draw_times(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row."""
    stacked_bars(axes, rows, ["run_s"], ["run"], "seconds a U-Net step or a frame, medians")


@app.command()
def main(
    bundle: Annotated[Path, typer.Argument(help="With float16 graphs and random weights.")],
    device: Annotated[str, typer.Option(help="This runtime's.")] = "webgpu",
    precision: Annotated[str, typer.Option(help="This runtime's.")] = "fp16",
    torch_device: Annotated[str, typer.Option(help="PyTorch's.")] = "cuda",
    frames: Frames = None,
    size: Size = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs a row, after a warm-up.")] = 5,
    output: Output = Path("gpu.json"),
) -> None:
    """Time a float16 bundle on a GPU, beside PyTorch in float16 on the same card."""
    require_modules("benchmark", "matplotlib", "torch")
    require_output(output)
    require_torch_device(torch_device)
    model = Bundle.open(bundle)
    options = Options(device, precision, torch_device, frames, size, runs)
    writer = ResultsWriter("gpu", model, output)
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks(model, options, Path(folder)):
            writer.measure(measure, task, task.name)
    rows = writer.rows
    writer.publish(rows, table(rows), lambda axes: draw_times(axes, rows))


def require_torch_device(name: str) -> None:
    """Raise RequestError for a device that PyTorch does not have here."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # an assertion where CUDA is not built in
        reason = str(error).splitlines()[0]
        raise RequestError(f"PyTorch has no {name} here ({reason}): give --torch-device") from error


if __name__ == "__main__":
    run_command(app, "gpu.py", PARTIAL_RESULTS)
