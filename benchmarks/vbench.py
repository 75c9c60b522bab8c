"""Judge a model as Hummingbird's paper does: VBench's protocol and scores.

    python benchmarks/vbench.py sample RUN                       6,230 videos of the built-in model
    python benchmarks/vbench.py sample RUN --bundle hummingbird --shard 3/10
    python benchmarks/vbench.py sample RUN --ray HOST:6379       on a Ray cluster
    python benchmarks/vbench.py score RUN --weights FOLDER
    python benchmarks/vbench.py world tests/data/shapes          by the judge of moving shapes

`sample` makes the videos that the official evaluator expects, and goes on where it was stopped.
`score` computes temporal flickering itself and runs the official package for the other dimensions
where their weights lie in a local folder. Quality, semantic and total score are only told where all
their dimensions are complete. `world` needs no weights: the judge of moving shapes in
VBench's frame, for every device and precision that works here.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.backends import working_devices
from hummingbird_edge.benchmarks.lib.cases import video_cases
from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import ResultsWriter, require_output
from hummingbird_edge.benchmarks.lib.vbench.batch import make_by_batch
from hummingbird_edge.benchmarks.lib.vbench.dimensions import BY_NAME
from hummingbird_edge.benchmarks.lib.vbench.evaluator import Evaluator
from hummingbird_edge.benchmarks.lib.vbench.run import begin, describe, make, open_run
from hummingbird_edge.benchmarks.lib.vbench.scoring import (
    Scoring,
    score_table,
    totals_of,
    totals_table,
)
from hummingbird_edge.benchmarks.lib.vbench.suite import Sample, Suite, parse_shard, shard_of
from hummingbird_edge.benchmarks.lib.workload import request_for
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.hub import find_bundle
from hummingbird_edge.runtime.cli.batch.command import Batch
from hummingbird_edge.runtime.command import note, printable, require_modules, run_command, say
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request, parse_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Judge a model by VBench's protocol and scores.",
)

RunFolder = Annotated[Path, typer.Argument(help="The folder of the run.")]
Dimensions = Annotated[
    list[str] | None, typer.Option(help="One of the 16, repeatable; default: all.")
]


def official_or_own(prompts: str) -> Suite:
    """Return the suite that `--prompts` names; raises DeviceError, RequestError."""
    return Suite.official() if prompts == "original" else Suite.of_file(Path(prompts))


def require_dimensions(names: list[str] | None) -> list[str]:
    """Return the dimensions that were named, else all; raises RequestError for an unknown one."""
    for name in names or []:
        if name not in BY_NAME:
            raise RequestError(f"there is no dimension {name!r}: choose from {', '.join(BY_NAME)}")
    return names or list(BY_NAME)


@app.command()
def sample(
    run: RunFolder,
    bundle: Annotated[
        Path | None, typer.Option(help="The model to judge; default: the built-in one.")
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="original, or a file of prompts, one a line.")
    ] = "original",
    dimension: Dimensions = None,
    shard: Annotated[str | None, typer.Option(help="K/N: every N-th video from the K-th.")] = None,
    frames: Annotated[int | None, typer.Option(help="Default: the model's.")] = None,
    size: Annotated[str | None, typer.Option(help="Such as 512x320.")] = None,
    fps: Annotated[int | None, typer.Option(help="Default: the model's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Default: the model's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's.")] = None,
    decoder: Annotated[str, typer.Option(help="full or tiny.")] = "full",
    seed: Annotated[int, typer.Option(min=0, help="Of the first video; they count up.")] = 0,
    device: Annotated[str, typer.Option(help="As for hb-run --batch.")] = "auto",
    precision: Annotated[str, typer.Option(help="As for hb-run.")] = "auto",
    ray: Annotated[str | None, typer.Option(help="As for hb-run --batch.")] = None,
) -> None:
    """Make the videos of a run, or those that are missing, of one shard."""
    (number, count), wanted = parse_shard(shard), set(require_dimensions(dimension))
    suite = official_or_own(prompts)
    opened, work = Bundle.open(find_bundle(bundle or BUILTIN)), run / f".batch-{number}"
    batch = Batch(work / "jobs.jsonl", work, ray, bundle, device, precision, None, False, False, {})
    batch.check_devices(opened)
    width, height = parse_size(size)
    shape = {"frames": frames, "width": width, "height": height, "steps": steps, "fps": fps}
    request = Request.for_model(opened.manifest, "any", seed, decoder, guidance=guidance, **shape)
    model = {"name": opened.manifest.name, "bundle_sha256": opened.digest}
    samples = suite.samples(seed)
    made = begin(run, describe(suite, request, model, seed), samples)
    chosen = [each for each in samples if wanted & set(each.dimensions)]
    mine = list(shard_of(chosen, number, count))
    todo = [each for each in mine if not made.path(each).exists()]
    say(f"{len(mine)} of {len(samples)} videos, {len(mine) - len(todo)} are there")
    if ray is None and len(batch.devices) == 1:
        pipeline = TextToVideo.from_bundle(opened, device=device, precision=precision, notify=note)
        make(made, todo, pipeline, report_progress(len(todo)))
    elif todo:
        make_by_batch(made, todo, batch)
    print(run)


def report_progress(count: int) -> Callable[[Sample], None]:
    """Return what says which of `count` videos is being made."""
    numbers = itertools.count(1)
    return lambda sample: say(f"{next(numbers)}/{count} {printable(sample.file)}")


@app.command()
def score(
    run: RunFolder,
    dimension: Dimensions = None,
    weights: Annotated[
        Path | None, typer.Option(help="The official package's folder of weights.")
    ] = None,
    evaluator: Annotated[
        str | None, typer.Option(help="The Python that has the official package; default: this.")
    ] = None,
    filtered: Annotated[
        Path | None, typer.Option(help="What vbench static_filter kept for temporal flickering.")
    ] = None,
    output: Output = Path("vbench.json"),
) -> None:
    """Score the videos of a run by dimension, and in total where all are complete."""
    require_modules("vbench", "cv2", "matplotlib")
    require_output(output)
    names = require_dimensions(dimension)
    for folder in (weights, filtered):
        if folder is not None and not folder.is_dir():
            raise RequestError(f"{folder} is not a folder: give one that is there")
    if evaluator is not None and weights is None:
        raise RequestError("--evaluator scores by weights: give --weights FOLDER too")
    official = None if weights is None else Evaluator(weights, evaluator or sys.executable)
    writer = ResultsWriter("vbench", None, output)
    for row in Scoring(open_run(run), official, filtered).rows(names):
        writer.add(row)
    rows = writer.rows
    table = f"{score_table(rows)}\n\n{totals_table(totals_of(rows))}"
    writer.publish(rows, table, lambda axes: draw_scores(axes, rows))


def draw_scores(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a dimension."""
    stacked_bars(axes, rows, ["score"], [""], "score")


@app.command()
def world(
    bundle: Annotated[Path, typer.Argument(help="A bundle that makes moving shapes.")],
    captions: Annotated[int, typer.Option(min=1, help="Videos to judge a row.")] = 100,
    device: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: all that work.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="auto, fp32, fp16, bf16, int8 or all; repeatable.")
    ] = None,
    steps: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the captions.")] = 0,
    output: Output = Path("vbench_world.json"),
) -> None:
    """Judge videos of moving shapes in VBench's frame, for every device and precision."""
    require_modules("benchmark,distill", "matplotlib", "torch", "accelerate", "skimage")
    from hummingbird_edge.benchmarks.lib.vbench.world import (
        JudgedCase,
        captions_of,
        judge_case,
        judge_rendered,
        world_table,
    )
    from hummingbird_edge.distill.evaluation import require_known_words

    require_output(output)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = Bundle.open(bundle)
        require_known_words(model, captions_of(captions, seed))
        if model.manifest.stage("unet").precisions == ("float32",):
            model = Bundle.open(quantized(bundle, Path(folder)))
        writer = ResultsWriter("vbench", model, output)
        writer.add(judge_rendered(captions, seed))
        chosen: list[int | None] = [*steps] if steps else [None]
        requests = [request_for(model, steps=each) for each in chosen]
        devices, wanted = device or working_devices(), precision or ["all"]
        for case in video_cases(model, devices, wanted, requests, 1, Path(folder)):
            writer.measure(judge_case, JudgedCase(case, captions, seed), case.name)
    rows = writer.rows
    writer.publish(rows, world_table(rows), lambda axes: draw_all_right(axes, rows))


def quantized(bundle: Path, folder: Path) -> Path:
    """Return a model in all precisions, calibrated on captions that are not judged."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.watch import watched_captions
    from hummingbird_edge.quantize import quantize_bundle

    prompts = [caption for _, caption in watched_captions(SHAPES_RECIPE.world)][:4]
    return quantize_bundle(
        bundle,
        folder / "quantized",
        precision="fp32+fp16+int8",
        prompts=prompts,
        quick=True,
        calibration=len(prompts),
        held_out=0,
    )


def draw_all_right(axes: "Axes", rows: list[Row]) -> None:
    """Draw the share of videos with everything right, a bar a row."""
    means = [
        Row(row.name, {"all": (sum(values) / len(values),)})
        for row in rows
        if (values := row.measures.get("overall_consistency"))
    ]
    stacked_bars(axes, means, ["all"], [""], "share of videos with everything right")


if __name__ == "__main__":
    run_command(app, "vbench.py", "finished videos and rows are kept: run it again to go on")
