"""The same random weights through other people's tools and through this runtime.

    python benchmarks/peers.py                              the built-in model's layout
    python benchmarks/peers.py --full-size FOLDER           hummingbird-0.7b, 16 frames of 512x320

Every row is a process of its own and runs one stage on the same inputs, those of a real video: its
last step, its first frames (the first row takes all steps, in float32). PyTorch eager and
`torch.compile`; what `torch.onnx.export` writes, on ONNX Runtime and on OpenVINO with their
defaults; the default int8 of optimum and of NNCF; this project's bundle on every device that works
here, in every precision. NNCF calibrates on the video's other steps and frames, what `--quantized`
names was calibrated before. Exporting and quantizing are rows of their own, without a time to run.
Agreement is the signal-to-noise ratio with PyTorch eager float32. What fails is a row with its
reason. A decoder's time is a frame's. Modules that only some rows need are loaded by those, so that
a row's memory is its own.
"""

import contextlib
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from hummingbird_edge.benchmarks.lib.engines import backends_here
from hummingbird_edge.benchmarks.lib.inputs import Inputs, Seen, read_inputs
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.machine import peak_mib
from hummingbird_edge.benchmarks.lib.options import Frames, FullSize, Output, Quantized, Size
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.repeat import Run, timed
from hummingbird_edge.benchmarks.lib.subject import random_copy, random_full_size, size_of
from hummingbird_edge.benchmarks.lib.table import bars, by_row, shown
from hummingbird_edge.benchmarks.lib.video import request_for
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError
from hummingbird_edge.runtime.placement.trial import snr_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

EAGER, PLAIN = "PyTorch eager fp32", "plain export, ONNX Runtime"
OPTIMUM, NNCF = "optimum int8, ONNX Runtime", "NNCF int8, OpenVINO"
OURS = "this runtime"
STAGES = ("unet", "vae_decoder")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Task:
    """One stage in one way."""

    way: str
    """A key of `WAYS`."""
    bundle: Path
    stage: str
    sizes: Mapping[str, int]
    runs: int
    folder: Path
    """Where inputs, the plain export and outputs lie."""
    backend: Backend | None = None
    """Of this runtime."""
    size: str = ""
    """Of the video, in words."""
    title: str = ""

    @property
    def name(self) -> str:
        """The row's name."""
        part = "a frame of " if self.stage.endswith("decoder") else ""
        return f"{part}{self.stage}, {self.size}: {self.title or self.way}"

    @property
    def plain(self) -> Path:
        """The plain export's graph."""
        return self.folder / f"plain-{self.stage}" / "model.onnx"

    @property
    def optimum(self) -> Path:
        """Where optimum writes."""
        return self.folder / f"optimum-{self.stage}"

    @property
    def nncf(self) -> Path:
        """What NNCF makes."""
        return self.folder / f"nncf-{self.stage}.xml"

    @property
    def truth(self) -> Path:
        """What PyTorch eager gave."""
        return self.folder / f"{self.stage}.npy"

    def inputs(self) -> Inputs:
        """Return the inputs that all ways read."""
        return read_inputs(self.folder, self.stage)[0]


def eager(task: Task) -> Run:
    """Run the module itself."""
    from hummingbird_edge.benchmarks.lib.eager import eager_run

    return eager_run(module_of(task), task.inputs())


def compiled(task: Task) -> Run:
    """Run what torch.compile makes of it, with its defaults and an empty cache."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(task.folder / f"inductor-{task.stage}")
    import torch

    from hummingbird_edge.benchmarks.lib.eager import eager_run

    return eager_run(torch.compile(module_of(task)), task.inputs())  # type: ignore[arg-type]


def module_of(task: Task) -> "nn.Module":
    """Return the stage's module with random weights."""
    from hummingbird_edge.benchmarks.lib.eager import config_of, random_module

    return random_module(config_of(Bundle.open(task.bundle)), task.stage)


def plain_export(task: Task) -> None:
    """Write what `torch.onnx.export` makes of the module, sizes fixed, no backend changed."""
    import torch

    from hummingbird_edge.benchmarks.lib.eager import inputs_for

    module = module_of(task)
    inputs = inputs_for(module, task.inputs())
    task.plain.parent.mkdir()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            module, (), str(task.plain), kwargs=inputs, input_names=list(inputs),
            dynamo=True, external_data=True,
        )  # fmt: skip


def plain_onnxruntime(task: Task) -> Run:
    """Run the plain export on ONNX Runtime's CPU with its defaults."""
    return _onnxruntime(_existing(task), task)


def plain_openvino(task: Task) -> Run:
    """Run the plain export on OpenVINO with its defaults, which may take bfloat16."""
    import openvino

    core = openvino.Core()
    return _openvino(core.compile_model(core.read_model(str(_existing(task))), "CPU"), task)


def optimum_quantize(task: Task) -> None:
    """Quantize the plain export by optimum's ORTQuantizer, its preset for AVX-512 VNNI."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    quantizer = ORTQuantizer.from_pretrained(str(_existing(task).parent), file_name=task.plain.name)
    quantizer.quantize(
        save_dir=str(task.optimum),
        quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False),
        use_external_data_format=True,
    )


def optimum_int8(task: Task) -> Run:
    """Run what optimum wrote."""
    written = sorted(task.optimum.glob("*.onnx"))
    if not written:
        raise RequestError("optimum wrote nothing, see its row")
    return _onnxruntime(written[0], task)


def nncf_quantize(task: Task) -> None:
    """Quantize the plain export by NNCF's defaults, on inputs that no row is judged on."""
    import nncf
    import openvino

    nncf.set_log_level("ERROR")
    core = openvino.Core()
    model = core.read_model(str(_existing(task)))
    names = {port.any_name for port in model.inputs}
    others = read_inputs(task.folder, task.stage)[1:]
    rows = [{name: x for name, x in inputs.items() if name in names} for inputs in others]
    small = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows))
    openvino.save_model(small, str(task.nncf), compress_to_fp16=False)


def nncf_int8(task: Task) -> Run:
    """Run what NNCF made."""
    if not task.nncf.exists():
        raise RequestError("NNCF wrote nothing, see its row")
    import openvino

    core = openvino.Core()
    return _openvino(core.compile_model(core.read_model(str(task.nncf)), "CPU"), task)


def ours(task: Task) -> Run:
    """Run this project's graph as `hb-run` does."""
    bundle, backend = Bundle.open(task.bundle), task.backend
    assert backend is not None  # see `tasks`
    graph = bundle.graph(task.stage, backend.device.family, backend.graph)
    session, inputs = open_session(graph, backend, task.sizes), task.inputs()
    return lambda: session.run(inputs)


WAYS: Mapping[str, Callable[[Task], Run]] = {
    EAGER: eager,
    "torch.compile fp32": compiled,
    PLAIN: plain_onnxruntime,
    "plain export, OpenVINO": plain_openvino,
    OPTIMUM: optimum_int8,
    NNCF: nncf_int8,
    OURS: ours,
}
PREPARING: Mapping[str, tuple[str, Callable[[Task], None]]] = {
    PLAIN: ("torch.onnx.export", plain_export),
    OPTIMUM: ("optimum quantizing", optimum_quantize),
    NNCF: ("NNCF quantizing", nncf_quantize),
}
"""What has to be written before a way can be run."""


def measure(task: Task) -> Row:
    """Measure one row, in a process that does nothing else."""
    started = time.perf_counter()
    run = WAYS[task.way](task)
    load_s = time.perf_counter() - started
    output, seconds = timed(run, task.runs)
    per = task.sizes["frames"] if task.stage.endswith("decoder") else 1
    measures: dict[str, tuple[float, ...]] = {
        "run_s": tuple(s / per for s in seconds[1:]),
        # The first run compiles where a tool leaves that for later.
        "ready_s": (load_s + seconds[0],),
        "peak_mib": (peak_mib(),),
    }
    if not np.isfinite(output).all():
        raise RequestError("its output has NaN")
    if task.way == EAGER:
        np.save(task.truth, output)
    elif task.truth.exists():
        measures["agreement_db"] = (round(min(snr_db(output, np.load(task.truth)), 200.0), 1),)
    facts = {"sizes": dict(task.sizes), "bundle_sha256": Bundle.open(task.bundle).digest}
    return Row(task.name, measures, facts)


def prepare(task: Task) -> Row:
    """Write what a way runs, in a process that does nothing else."""
    started = time.perf_counter()
    PREPARING[task.way][1](task)
    seconds = time.perf_counter() - started
    return Row(task.name, {"ready_s": (seconds,), "peak_mib": (peak_mib(),)})


def base_task(
    bundle: Bundle, stage: str, size: str | None, frames: int | None, runs: int, folder: Path
) -> Task:
    """Return a stage in PyTorch; raises RequestError for a stage that makes no videos."""
    if stage not in bundle.manifest.stages:
        known = ", ".join(bundle.manifest.stages)
        raise RequestError(f"{bundle.manifest.name} has no stage {stage!r}: choose from {known}")
    decoder = "tiny" if stage == "tiny_decoder" else "full"
    request = request_for(bundle, decoder, size, frames)
    sizes = request.stage_sizes(bundle.manifest).get(stage)
    if sizes is None:
        raise RequestError(f"{stage} makes no videos: choose from {', '.join(STAGES)}")
    return Task(EAGER, bundle.folder, stage, sizes, runs, folder, size=size_of(request))


def tasks(base: Task, quantized: Bundle | None) -> Iterator[Task]:
    """Yield the rows of one stage in their order."""
    for way in WAYS:
        if way != OURS:
            yield replace(base, way=way)
    for bundle in filter(None, (Bundle.open(base.bundle), quantized)):
        for backend in backends_here(base.stage, bundle.manifest.stage(base.stage).precisions):
            if bundle is not quantized or backend.precision == "int8":
                title = f"{OURS}, {backend}"
                own = replace(base, way=OURS, bundle=bundle.folder, title=title)
                yield replace(own, backend=backend)


def _existing(task: Task) -> Path:
    if not task.plain.exists():
        raise RequestError("the plain export failed, see its row")
    return task.plain


def _onnxruntime(graph: Path, task: Task) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    inputs = {name: x for name, x in task.inputs().items() if name in names}
    return lambda: np.asarray(session.run(None, inputs)[0])


def _openvino(compiled: Any, task: Task) -> Run:
    names = {port.any_name for port in compiled.inputs}
    inputs = {name: x for name, x in task.inputs().items() if name in names}
    return lambda: np.array(compiled(inputs)[0])


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, each against PyTorch eager's of its stage."""
    base = {
        row.name.partition(":")[0]: row.median("run_s") for row in rows if row.name.endswith(EAGER)
    }

    def cells(row: Row) -> list[str]:
        start = [f"{row.median('ready_s'):.1f}", f"{row.median('peak_mib'):,.0f}"]
        if "run_s" not in row.measures:
            return ["", "", "", *start]
        run, eager_s = row["run_s"], base.get(row.name.partition(":")[0], math.nan)
        ratio = shown(eager_s / run.median, "{:.2f}x")
        agreement = shown(row.median("agreement_db"), "{:.1f} dB")
        return [f"{run.median:.4g}", f"{run.range:.2g}", ratio, *start, agreement]

    header = ["run, s", "spread, s", "faster than eager", "ready after, s", "peak MiB", "agreement"]
    return by_row(header, rows, cells)


@app.command()
def main(
    full_size: FullSize = None,
    quantized: Quantized = None,
    stages: Annotated[
        str | None, typer.Option(help="Else unet,vae_decoder; with --quick the decoder alone.")
    ] = None,
    frames: Frames = None,
    size: Size = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs a row, after one.")] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="Its decoder alone, two minutes at most.")
    ] = False,
    output: Output = Path("peers.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib", "torch")
    if quick and full_size:
        raise RequestError("--quick measures the built-in model's layout: leave --full-size out")
    require_output(output)
    small = None if quantized is None else Bundle.open(quantized)
    named = stages.split(",") if stages else STAGES[-1:] if quick else STAGES
    known = Bundle.open(BUILTIN).manifest.stages
    if unknown := [stage for stage in named if stage not in (*known, "tiny_decoder")]:
        raise RequestError(f"there is no stage {unknown[0]!r}: choose from {', '.join(known)}")
    if full_size:
        random_full_size(full_size)
    with tempfile.TemporaryDirectory(dir=full_size, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        path = random_full_size(full_size) if full_size else random_copy(BUILTIN, folder)
        bundle = Bundle.open(path)
        bases = [base_task(bundle, stage, size, frames, runs, folder) for stage in named]
        ledger = Ledger("peers", bundle, output)
        seen = Seen(path, request_for(bundle, size=size, frames=frames), folder)
        if failure := ledger.measure(Seen.write, seen, seen.name).failure:
            raise HummingbirdError(f"there are no inputs to measure with: {failure}")
        for base in bases:
            for task in tasks(base, small):
                if task.way in PREPARING:
                    made = replace(task, title=PREPARING[task.way][0])
                    ledger.measure(prepare, made, made.name)
                ledger.measure(measure, task, task.name)

        def draw(axes: "Axes") -> None:
            timed_rows = [row for row in ledger.rows if "run_s" in row.measures]
            bars(axes, timed_rows, ["run_s"], ["a run"], "seconds a U-Net step or a frame, medians")

        ledger.publish(ledger.rows, table(ledger.rows), draw)


if __name__ == "__main__":
    run_command(app, "peers.py", KEPT)
