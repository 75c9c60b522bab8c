"""Compare the 4-step student with its own teacher of 50 guided steps.

    python benchmarks/distillation.py RUN               after hb-distill all RUN --world cartoons
    python benchmarks/distillation.py RUN --world shapes

Both make clips of the same captions in PyTorch, in turns: text encoder, U-Net steps and VAE of one
clip at a time. Then both are judged: the share of `--captions` clips that are right in `all` that
`hb-distill score` counts.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import row_table
from hummingbird_edge.distill.worlds import BUILTIN_WORLD, evaluation_of
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.distill.evaluation import Evaluation, Scores
    from hummingbird_edge.distill.train.model import Model

MODELS = ("teacher", "student")
BATCH = 8
"""Clips made at once to be judged."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def time_clips(models: dict[str, "Model"], prompts: list[str]) -> dict[str, list[float]]:
    """Time one clip a prompt by each model in turns; the first prompt is a warm-up."""
    from hummingbird_edge.distill.evaluation import FIRST_SEED
    from hummingbird_edge.distill.train.sampling import generate

    seconds: dict[str, list[float]] = {name: [] for name in models}
    for index, prompt in enumerate(prompts):
        for name, model in models.items():
            started = time.perf_counter()
            generate(model, [prompt], seed=FIRST_SEED + index)
            if index:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def score(model: "Model", evaluation: "Evaluation[Any]", captions: int, seed: int) -> "Scores":
    """Judge one clip of each held-out caption."""
    from hummingbird_edge.distill.evaluation import FIRST_SEED
    from hummingbird_edge.distill.train.sampling import generate

    pairs = evaluation.sample(captions, seed)
    clips = generate(model, [caption for _, caption in pairs], seed=FIRST_SEED, batch=BATCH)
    return evaluation.score(clips, [target for target, _ in pairs])


def row_of(name: str, model: "Model", seconds: list[float], scores: "Scores", captions: int) -> Row:
    """Return the row of one model."""
    guided = "" if model.config.unet.guidance_width else ", guided"
    measures = {"clip_s": tuple(seconds), "all_right": (scores.accuracy["all"],)}
    steps = f"{model.config.defaults.steps}{guided}"
    metadata = {"steps": steps, "captions": captions, "accuracy": scores.accuracy}
    return Row(name, measures, metadata)


def table(rows: list[Row], captions: int) -> str:
    """Return the rows as Markdown, and the speedup."""

    def cells(row: Row) -> list[str]:
        clip, right = row["clip_s"], f"{100 * row.median('all_right'):.1f} %"
        return [str(row.metadata["steps"]), f"{clip.median:.3f}", f"{clip.range:.3f}", right]

    header = ["steps", "seconds a clip", "spread", f"all correct, of {captions}"]
    teacher, student = (row.median("clip_s") for row in rows)
    speedup = f"The student is {teacher / student:.1f} times faster."
    return f"{row_table(header, rows, cells)}\n\n{speedup}"


def measure(
    run: Path, evaluation: "Evaluation[Any]", captions: int, clips: int, output: Path
) -> ResultsWriter:
    """Time both models, then judge them."""
    from hummingbird_edge.distill.train.model import Model

    models = {name: Model.read(run / name).frozen() for name in MODELS}
    prompts = [text for _, text in evaluation.sample(clips, 5)]
    writer, seconds = ResultsWriter("distillation", None, output), time_clips(models, prompts)
    for name, model in models.items():
        scores = score(model, evaluation, captions, 0)
        writer.add(row_of(name, model, seconds[name], scores, captions))
    return writer


def draw_times(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a model."""
    stacked_bars(axes, rows, ["clip_s"], [""], "seconds a clip, medians")


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    captions: Annotated[int, typer.Option(min=1, help="Captions to judge.")] = 100,
    clips: Annotated[int, typer.Option(min=2, help="Clips to time, a warm-up included.")] = 6,
    world: Annotated[
        str, typer.Option(help="cartoons (by the judge of the run) or shapes.")
    ] = BUILTIN_WORLD,
    output: Output = Path("distillation.json"),
) -> None:
    """Compare the student with its own teacher."""
    require_modules("benchmark,distill", "matplotlib", "torch", "accelerate")
    for folder in MODELS:
        if not (run / folder).is_dir():
            raise RequestError(
                f"{run} has no {folder}: run hb-distill all {run} --world {world} first"
            )
    require_output(output)
    evaluation = evaluation_of(world, run if world == "cartoons" else None)
    writer = measure(run, evaluation, captions, clips, output)
    rows = writer.rows
    writer.publish(rows, table(rows, captions), lambda axes: draw_times(axes, rows))


if __name__ == "__main__":
    run_command(app, "distillation.py", PARTIAL_RESULTS)
