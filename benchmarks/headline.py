"""Hummingbird against VideoCrafter2, the paper's comparison on this machine, then this runtime.

    python benchmarks/headline.py --full-size FOLDER --quantized INT8
    python benchmarks/headline.py --quick                        the built-in model and its teacher

The paper (arXiv:2503.18559) runs 4 steps 31 times as fast as VideoCrafter2's 50 guided DDIM
steps, both in PyTorch on a data-centre GPU. Here both run in PyTorch eager float32 with random
weights, on this machine in this run. Their parts are timed `--runs` times and multiplied: a hundred
evaluations of the U-Net would take hours. The runtime's rows are whole videos, made as `hb-run`
makes them and timed as `latency.py` times them: warm, with loading where a large bundle loads stage
by stage, and without ("computing"); frames are held to those of the most precise row, as there.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.apart import measure_apart
from hummingbird_edge.benchmarks.lib.engines import working_devices
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.machine import peak_mib
from hummingbird_edge.benchmarks.lib.options import Frames, FullSize, Output, Quantized, Size
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.repeat import timed
from hummingbird_edge.benchmarks.lib.subject import open_subject, size_of
from hummingbird_edge.benchmarks.lib.table import by_row, shown
from hummingbird_edge.benchmarks.lib.video import Case, cases, request_for, with_agreement
from hummingbird_edge.benchmarks.lib.video import measure as measure_video
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.export.models.config import ModelConfig

PAPER = 31
TEACHER_STEPS, TEACHER_PASSES = 50, 2
"""VideoCrafter2's published sampling; guidance takes a pass with the prompt and one without."""
EAGER = "PyTorch eager fp32"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Eager:
    """A model in PyTorch."""

    name: str
    stage: str
    config: "ModelConfig"
    bundle: Path
    """Whose shapes it gets."""
    sizes: Mapping[str, int]
    times: int
    """How often a video runs the stage."""
    runs: int


def measure_stage(task: Eager) -> Row:
    """Time one stage, in a process that does nothing else."""
    from hummingbird_edge.benchmarks.lib.eager import eager_run, random_module
    from hummingbird_edge.runtime.placement.trial import example_inputs

    arrays = example_inputs(Bundle.open(task.bundle).manifest, task.stage, task.sizes)
    module = random_module(task.config, task.stage, half_stored=False)
    _, seconds = timed(eager_run(module, arrays), task.runs)
    measures = {f"{task.stage}_run_s": seconds[1:], "peak_mib": (peak_mib(),)}
    return Row(task.name, measures, {f"{task.stage}_times": task.times})


def times_of(row: Row) -> int:
    """Return how often a video runs the stage of a row."""
    (times,) = (value for key, value in row.facts.items() if key.endswith("_times"))
    assert isinstance(times, int)
    return times


def eager_tasks(
    name: str, config: "ModelConfig", bundle: Bundle, request: Request, passes: int, runs: int
) -> Iterator[Eager]:
    """Yield the stages of a model in PyTorch; `passes` of the U-Net, guided or not."""
    steps = request.steps if passes == request.steps else TEACHER_STEPS
    for stage, sizes in request.stage_sizes(bundle.manifest).items():
        frames = -(-request.frames // sizes.get("frames", 1))
        times = {"text_encoder": -(-passes // steps), "unet": passes}.get(stage, frames)
        yield Eager(name, stage, config, bundle.folder, sizes, times, runs)


def eager_row(name: str, stages: list[Row]) -> Row:
    """Return the row of a model from those of its stages: medians, multiplied."""
    failures = [row.failure for row in stages if row.failure]
    if failures:
        return Row(name, failure=failures[0])
    measures: dict[str, tuple[float, ...]] = {}
    facts: dict[str, object] = {"steps": "timed a few times and multiplied"}
    least = most = total = 0.0
    for row in stages:
        times = times_of(row)
        (measure,) = (key for key in row.measures if key != "peak_mib")
        spread = row[measure]
        total += times * spread.median
        least, most = least + times * spread.least, most + times * spread.most
        measures[measure] = row.measures[measure]
        facts |= row.facts
    measures |= {
        "computing_s": (total,),
        "computing_least_s": (least,),
        "computing_most_s": (most,),
    }
    measures["peak_mib"] = (max(row.median("peak_mib") for row in stages),)
    return Row(name, measures, facts)


def _spread(row: Row) -> str:
    """Return from the least to the most that was computed, or that it was once."""
    spread = row["computing_s"].range
    if "computing_most_s" in row.measures:  # the product of medians, which has no range of its own
        spread = row.median("computing_most_s") - row.median("computing_least_s")
    return f"{spread:.2f}" if spread else "one run"


def teacher_of(config: "ModelConfig") -> tuple[str, "ModelConfig"]:
    """Return the name and the configuration of what a model was pruned from.

    VideoCrafter2 for the published size; else the layout of teachers that `hb-distill` trains: two
    residual blocks a level, a middle block, no guidance embedding.
    """
    from hummingbird_edge.export.models.config import PRESETS

    if config.unet == PRESETS["hummingbird-0.7b"].unet:
        return "VideoCrafter2", PRESETS["videocrafter2"]
    layout = replace(config.unet, res_blocks=2, middle_block=True, guidance_width=None)
    return "its teacher", replace(config, unet=layout)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, with ratios to the first two: teacher and student in PyTorch."""
    teacher, student = (row.median("computing_s") for row in rows[:2])
    names = [row.name.partition(",")[0] for row in rows[:2]]

    def cells(row: Row) -> list[str]:
        computing = row.median("computing_s")
        return [
            f"{computing:,.2f}",
            _spread(row),
            shown(teacher / computing, "{:.1f}x"),
            shown(student / computing, "{:.2f}x"),
            shown(row.median("video_s"), "{:,.2f}"),
            f"{row.median('peak_mib'):,.0f}",
            shown(row.median("agreement_db"), "{:.1f} dB"),
        ]

    ratios = [f"faster than {name} in PyTorch" for name in names]
    header = ["computing, s", "spread, s", *ratios, "warm video, s", "peak MiB", "frames"]
    own = shown(teacher / student, "; {:.1f}x in PyTorch on this machine")
    return f"{by_row(header, rows, cells)}\n\nThe paper: {PAPER}x on its GPU, in PyTorch{own}."


@app.command()
def main(
    full_size: FullSize = None,
    quantized: Quantized = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Of this runtime; may be repeated; else all.")
    ] = None,
    frames: Frames = None,
    size: Size = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each part, after one.")] = 2,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in model and its teacher's layout.")
    ] = False,
    output: Output = Path("headline.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib", "torch", "skimage")
    if quick == (full_size is not None):
        raise RequestError("give --full-size FOLDER or --quick")
    from hummingbird_edge.benchmarks.lib.eager import config_of

    require_output(output)
    devices = [Device.parse(name) for name in device or working_devices()]
    if quantized is not None and not any(each.engine == "openvino" for each in devices):
        raise RequestError("--quantized needs OpenVINO, the engine that gains by int8: install it")
    bundle = open_subject(None, full_size, quick)
    request = request_for(bundle, size=size, frames=frames)
    config = config_of(bundle)
    teacher, its_config = teacher_of(config)
    size_and_engine = f"{EAGER}, {size_of(request)}"
    models = {
        f"{teacher}, {size_and_engine}": (its_config, TEACHER_STEPS * TEACHER_PASSES),
        f"{bundle.manifest.name}, {size_and_engine}": (config, request.steps),
    }
    small = None if quantized is None else Bundle.open(quantized)
    ledger = Ledger("headline", bundle, output)
    for name, (each, passes) in models.items():
        parts = [
            measure_apart(measure_stage, task, f"{name}: {task.stage}")
            for task in eager_tasks(name, each, bundle, request, passes, runs)
        ]
        ledger.add(eager_row(name, parts))
    with tempfile.TemporaryDirectory() as folder:
        planned = runtime_cases(bundle, small, request, devices, runs, Path(folder))
        known = {case.name: case for case in planned}
        for case in known.values():
            ledger.measure(measure_video, case, case.name)
        rows = ledger.rows[: len(models)] + with_agreement(ledger.rows[len(models) :], known)
    ledger.publish(rows, table(rows), lambda axes: draw_bars(axes, rows))


def runtime_cases(
    bundle: Bundle,
    small: Bundle | None,
    request: Request,
    devices: list[Device],
    runs: int,
    folder: Path,
) -> Iterator[Case]:
    """Yield the videos of this runtime: every device, int8 where a bundle has it, tiny decoders."""
    for each, precision in ((bundle, "auto"), (small, "int8")):
        if each is None:
            continue
        kinds = ("full", "tiny") if "tiny_decoder" in each.manifest.stages else ("full",)
        for decoder in kinds:
            video = replace(request, decoder=decoder)
            # int8 is for engines that gain by it.
            able = [d.name for d in devices if precision == "auto" or d.engine == "openvino"]
            yield from cases(each, able, [precision], [video], runs, None, folder)


def draw_bars(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row on a logarithmic scale."""
    done = [row for row in rows if not row.failure][::-1]
    axes.barh([row.name for row in done], [row.median("computing_s") for row in done])
    axes.set(xscale="log", xlabel="seconds a video, loading apart")


if __name__ == "__main__":
    run_command(app, "headline.py", KEPT)
