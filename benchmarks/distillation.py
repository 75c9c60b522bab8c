"""What distillation gains: the 4-step student against its own teacher of 50 guided steps.

    python benchmarks/distillation.py RUN               after hb-distill all RUN

Both make the same captions through PyTorch on the same machine, one after the other in turns: text
encoder, U-Net steps and VAE of one clip at a time; then as many of `--captions` clips as show all
that was asked are counted.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.table import bars, by_row
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.distill.score import Scores
    from hummingbird_edge.distill.train.model import Model

MODELS = ("teacher", "student")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def seconds_a_clip(models: dict[str, "Model"], prompts: list[str]) -> dict[str, list[float]]:
    """Time one clip a prompt by each model in turns; the first prompt only warms up."""
    from hummingbird_edge.distill.score import FIRST_SEED
    from hummingbird_edge.distill.train.sampling import generate

    seconds: dict[str, list[float]] = {name: [] for name in models}
    for index, prompt in enumerate(prompts):
        for name, model in models.items():
            started = time.perf_counter()
            generate(model, [prompt], seed=FIRST_SEED + index)
            if index:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def scored(model: "Model", captions: int, seed: int) -> "Scores":
    """Judge one clip a held-out caption."""
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
    from hummingbird_edge.distill.score import FIRST_SEED, score_clips, unseen_captions
    from hummingbird_edge.distill.train.sampling import generate

    pairs = unseen_captions(BUILTIN_RECIPE.world, captions, seed)
    clips = generate(model, [caption for _, caption in pairs], seed=FIRST_SEED)
    return score_clips(clips, [scene for scene, _ in pairs], BUILTIN_RECIPE.world)


def row_of(name: str, model: "Model", seconds: list[float], scores: "Scores", captions: int) -> Row:
    """Return what was found of one model."""
    guided = "" if model.config.unet.guidance_width else ", guided"
    measures = {"clip_s": tuple(seconds), "all_right": (scores.accuracy["all"],)}
    steps = f"{model.config.defaults.steps}{guided}"
    facts = {"steps": steps, "captions": captions, "accuracy": scores.accuracy}
    return Row(name, measures, facts)


def table(rows: list[Row], captions: int) -> str:
    """Return the rows as Markdown, and the ratio."""

    def cells(row: Row) -> list[str]:
        clip, right = row["clip_s"], f"{100 * row.median('all_right'):.1f} %"
        return [str(row.facts["steps"]), f"{clip.median:.3f}", f"{clip.range:.3f}", right]

    header = ["steps", "seconds a clip", "spread", f"all right, of {captions}"]
    teacher, student = (row.median("clip_s") for row in rows)
    return f"{by_row(header, rows, cells)}\n\nThe student is {teacher / student:.1f} times faster."


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    captions: Annotated[int, typer.Option(min=1, help="Captions to judge.")] = 100,
    clips: Annotated[int, typer.Option(min=2, help="Clips to time; the first warms up.")] = 6,
    output: Output = Path("distillation.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark,distill", "matplotlib", "torch", "accelerate")
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
    from hummingbird_edge.distill.score import unseen_captions
    from hummingbird_edge.distill.train.model import Model

    for folder in MODELS:
        if not (run / folder).is_dir():
            raise RequestError(f"{run} has no {folder}: run hb-distill all {run} first")
    require_output(output)
    models = {name: Model.read(run / name).frozen() for name in MODELS}
    prompts = [text for _, text in unseen_captions(BUILTIN_RECIPE.world, clips, 5)]
    ledger, seconds = Ledger("distillation", None, output), seconds_a_clip(models, prompts)
    for name, model in models.items():
        scores = scored(model, captions, 0)
        ledger.add(row_of(name, model, seconds[name], scores, captions))

    def draw(axes: "Axes") -> None:
        bars(axes, ledger.rows, ["clip_s"], [""], "seconds a clip, medians")

    ledger.publish(ledger.rows, table(ledger.rows, captions), draw)


if __name__ == "__main__":
    run_command(app, "distillation.py", KEPT)
