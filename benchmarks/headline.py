"""Compare Hummingbird with VideoCrafter2 in PyTorch, as the paper does, then with this runtime.

    python benchmarks/headline.py --full-size FOLDER --quantized INT8
    python benchmarks/headline.py --quick                        the built-in model and its teacher

The paper (arXiv:2503.18559) runs 4 steps 31 times as fast as VideoCrafter2's 50 guided DDIM
steps, both in PyTorch on a data-centre GPU. Here both run in PyTorch eager float32 with random
weights, on this machine in this run; their stages are timed `--runs` times and multiplied. The
runtime's rows are whole videos, measured as in `latency.py`: warm, with loading where a large
bundle loads stage by stage, and without ("computing"); frames are compared with those of the most
precise row.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.backends import working_devices
from hummingbird_edge.benchmarks.lib.cases import VideoCase, video_cases
from hummingbird_edge.benchmarks.lib.eager_baseline import (
    EagerModel,
    combine_stages,
    measure_stage,
)
from hummingbird_edge.benchmarks.lib.model_under_test import open_model
from hummingbird_edge.benchmarks.lib.options import (
    Frames,
    FullSize,
    Output,
    Processes,
    Quantized,
    Size,
)
from hummingbird_edge.benchmarks.lib.quality import add_agreement
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.subprocess_runner import run_in_subprocess
from hummingbird_edge.benchmarks.lib.table import format_number, row_table
from hummingbird_edge.benchmarks.lib.video import measure_video
from hummingbird_edge.benchmarks.lib.workload import request_for, shape_text
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.export.models.config import ModelConfig

PAPER_SPEEDUP = 31
TEACHER_STEPS, TEACHER_PASSES = 50, 2
"""VideoCrafter2's published sampling; guidance runs the U-Net with and without the prompt."""
EAGER = "PyTorch eager fp32"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    bundle: Bundle
    quantized: Bundle | None
    """The same model in int8."""
    devices: list[Device]
    """Of this runtime."""
    request: Request
    runs: int
    processes: int
    """Processes a video of this runtime."""


def eager_models(bundle: Bundle, request: Request) -> list[EagerModel]:
    """Return teacher and student."""
    from hummingbird_edge.benchmarks.lib.eager import config_of

    student, shape = config_of(bundle), f"{EAGER}, {shape_text(request)}"
    name, teacher = teacher_of(student)
    return [
        EagerModel(f"{name}, {shape}", teacher, TEACHER_STEPS, TEACHER_PASSES),
        EagerModel(f"{bundle.manifest.name}, {shape}", student, request.steps),
    ]


def teacher_of(student: "ModelConfig") -> tuple[str, "ModelConfig"]:
    """Return the name and the configuration of the model that `student` was pruned from.

    VideoCrafter2 for the published size; else the layout of teachers that `hb-distill` trains: two
    residual blocks a level, a middle block, no guidance embedding.
    """
    from hummingbird_edge.export.models.config import PRESETS

    if student.unet == PRESETS["hummingbird-0.7b"].unet:
        return "VideoCrafter2", PRESETS["videocrafter2"]
    layout = replace(student.unet, res_blocks=2, middle_block=True, guidance_width=None)
    return "its teacher", replace(student, unet=layout)


def video_cases_of(plan: Plan, folder: Path) -> Iterator[VideoCase]:
    """Yield the videos of this runtime: every device, int8 where given, both decoders."""
    for bundle, precision in ((plan.bundle, "auto"), (plan.quantized, "int8")):
        if bundle is None:
            continue
        decoders = ("full", "tiny") if "tiny_decoder" in bundle.manifest.stages else ("full",)
        # int8 is for engines that gain by it.
        gains = [d.name for d in plan.devices if precision == "auto" or d.engine == "openvino"]
        requests = [replace(plan.request, decoder=decoder) for decoder in decoders]
        yield from video_cases(bundle, gains, [precision], requests, plan.runs, folder)


def measure_eager(writer: ResultsWriter, plan: Plan) -> list[Row]:
    """Measure teacher and student in PyTorch."""
    for model in eager_models(plan.bundle, plan.request):
        tasks = list(model.stages(plan.bundle, plan.request, plan.runs))
        stages = [(task, run_in_subprocess(measure_stage, task, task.name)) for task in tasks]
        writer.add(combine_stages(model.name, stages))
    return list(writer.rows)


def measure_runtime(writer: ResultsWriter, plan: Plan) -> list[Row]:
    """Measure the videos of this runtime, each with its agreement."""
    with tempfile.TemporaryDirectory() as folder:
        cases = {case.name: case for case in video_cases_of(plan, Path(folder))}
        rows = [
            writer.measure(measure_video, case, name, plan.processes)
            for name, case in cases.items()
        ]
        return add_agreement(rows, cases)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, with ratios to the first two: teacher and student in PyTorch."""
    teacher_s, student_s = (row.median("computing_s") for row in rows[:2])
    names = [row.name.partition(",")[0] for row in rows[:2]]

    def cells(row: Row) -> list[str]:
        computing = row.median("computing_s")
        return [
            f"{computing:,.2f}",
            _spread(row),
            format_number(teacher_s / computing, "{:.1f}x"),
            format_number(student_s / computing, "{:.2f}x"),
            format_number(row.median("video_s"), "{:,.2f}"),
            f"{row.median('peak_mib'):,.0f}",
            format_number(row.median("agreement_db"), "{:.1f} dB"),
        ]

    ratios = [f"speedup over {name} in PyTorch" for name in names]
    header = ["computing, s", "spread, s", *ratios, "warm video, s", "peak MiB", "agreement"]
    ours = format_number(teacher_s / student_s, "; {:.1f}x in PyTorch on this machine")
    return (
        f"{row_table(header, rows, cells)}\n\nPaper: {PAPER_SPEEDUP}x in PyTorch on its GPU{ours}."
    )


def _spread(row: Row) -> str:
    """Return the largest computing time minus the smallest."""
    spread = row["computing_s"].range
    if "computing_most_s" in row.measures:  # a product of medians, whose extremes are kept apart
        spread = row.median("computing_most_s") - row.median("computing_least_s")
    return f"{spread:.2f}" if spread else "one run"


def draw_bars(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row on a logarithmic scale."""
    done = [row for row in rows if not row.failure][::-1]
    axes.barh([row.name for row in done], [row.median("computing_s") for row in done])
    axes.set(xscale="log", xlabel="seconds a video, without loading")


@app.command()
def main(
    full_size: FullSize = None,
    quantized: Quantized = None,
    device: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: all that work.")
    ] = None,
    frames: Frames = None,
    size: Size = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs a row, after a warm-up.")] = 2,
    processes: Processes = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in model and its teacher's layout.")
    ] = False,
    output: Output = Path("headline.json"),
) -> None:
    """Compare Hummingbird with VideoCrafter2, then with this runtime."""
    require_modules("benchmark", "matplotlib", "torch", "skimage")
    if quick == (full_size is not None):
        raise RequestError("give --full-size FOLDER or --quick")
    require_output(output)
    devices = [Device.parse(name) for name in device or working_devices()]
    if quantized is not None and not any(each.engine == "openvino" for each in devices):
        raise RequestError("--quantized needs OpenVINO, the engine that gains by int8: install it")
    bundle = open_model(None, full_size, quick)
    int8 = None if quantized is None else Bundle.open(quantized)
    request = request_for(bundle, size=size, frames=frames)
    plan = Plan(bundle, int8, devices, request, runs, processes)
    writer = ResultsWriter("headline", bundle, output)
    rows = measure_eager(writer, plan) + measure_runtime(writer, plan)
    writer.publish(rows, table(rows), lambda axes: draw_bars(axes, rows))


if __name__ == "__main__":
    run_command(app, "headline.py", PARTIAL_RESULTS)
