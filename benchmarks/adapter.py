"""Teach the cartoons' student a sprite that it never saw, from a few clips; ask the judge for it.

    python benchmarks/adapter.py RUN              after hb-distill all RUN --world cartoons

The clips are learned from as a user's own are: by what `hb-distill lora` and `hb-export build
--lora` do. Then the student's bundle, without and with the adapter, makes videos of held-out
captions: of the new noun, and of those that it knew. The judge says in how many it sees the noun.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import format_number, row_table
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation

SEED = 2026

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def teach(
    student: Path, evaluation: "CartoonsEvaluation", noun: str, clips: int, steps: int, out: Path
) -> float:
    """Train an adapter on clips of `noun` and write it to `out`; returns the CPU seconds."""
    from hummingbird_edge.distill.cartoons.pool import draw_clips
    from hummingbird_edge.distill.train.lora import train_lora
    from hummingbird_edge.distill.train.model import Model

    model = Model.read(student)
    defaults, factor = model.config.defaults, model.config.vae.scaling_factor
    world = replace(
        evaluation.world, nouns=(noun,), resolution=defaults.width, frames=defaults.frames
    )
    sprites, forever = evaluation.sprites, float("inf")
    encoded, _ = draw_clips(model.vae.eval(), world, sprites, clips, forever, SEED, factor)
    encoded.write(out.with_suffix(".safetensors"))
    started = time.process_time()
    train_lora(student, out.with_suffix(".safetensors"), out, steps, rank=8, seed=SEED)
    return time.process_time() - started


def ask(
    bundle: Path, evaluation: "CartoonsEvaluation", nouns: Sequence[str], captions: int
) -> float:
    """Return the share of videos in which the judge sees the noun that was asked for."""
    from hummingbird_edge.distill.evaluation import evaluate_bundle

    world = replace(evaluation.world, nouns=tuple(nouns))
    scores = evaluate_bundle(bundle, replace(evaluation, world=world), captions, SEED)
    return scores.accuracy["noun"]


def reachable(evaluation: "CartoonsEvaluation", noun: str, captions: int) -> float:
    """Return the same of rendered clips: what the judge itself can reach."""
    from hummingbird_edge.distill.cartoons.judging import measure_judge

    world = replace(evaluation.world, nouns=(noun,))
    return measure_judge(evaluation.judge, world, evaluation.sprites, captions)["noun"]


def measure(
    run: Path,
    evaluation: "CartoonsEvaluation",
    noun: str,
    clips: int,
    steps: int,
    captions: int,
    built: Path | None,
) -> Iterator[Row]:
    """Yield a row of rendered clips, one without the adapter and one with it."""
    from hummingbird_edge.export import build_bundle

    metadata = {"noun": noun, "clips": clips, "steps": steps, "captions": captions}
    yield Row("rendered", {"new_right": (reachable(evaluation, noun, captions),)}, metadata)
    with TemporaryDirectory(prefix="hummingbird-adapter-") as folder:
        adapter, student = Path(folder) / "adapter", run / "student"
        seconds = teach(student, evaluation, noun, clips, steps, adapter)
        for name, lora in (("student", None), (f"with the adapter of {clips} clips", adapter)):
            out, bundle = Path(folder) / name, None if lora else built
            bundle = bundle or build_bundle(student, out, precision="fp32", lora=lora)
            measures = {
                "new_right": (ask(bundle, evaluation, [noun], captions),),
                "known_right": (ask(bundle, evaluation, evaluation.world.nouns, captions),),
                "training_s": (seconds if lora else 0.0,),
            }
            yield Row(name, measures, metadata)


def table(rows: Sequence[Row], noun: str, captions: int) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        shares = [row.median(name) for name in ("new_right", "known_right")]
        minutes = row.median("training_s") / 60
        return [
            *(format_number(100 * share, "{:.0f} %") for share in shares),
            format_number(minutes, "{:.1f}"),
        ]

    header = [f"{noun} seen, of {captions}", "known nouns seen", "CPU minutes of training"]
    return row_table(header, rows, cells)


def draw(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a model."""
    stacked_bars(axes, rows, ["new_right"], [""], "share of videos in which the new noun is seen")


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run of the cartoons.")],
    noun: Annotated[str | None, typer.Option(help="One that the judge alone knows.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips to learn from.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Of the adapter's training.")] = 200,
    captions: Annotated[int, typer.Option(min=1, help="Held-out captions to judge.")] = 24,
    bundle: Annotated[Path | None, typer.Option(help="The student's, else built anew.")] = None,
    output: Output = Path("adapter.json"),
) -> None:
    """Teach the student a sprite that it never saw, and ask the judge for it."""
    require_modules("benchmark,distill", "matplotlib", "torch", "accelerate", "peft")
    if not (run / "student").is_dir():
        raise RequestError(f"{run} has no student: run hb-distill all {run} --world cartoons first")
    require_output(output)
    from hummingbird_edge.distill.cartoons.judging import read_judge
    from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation

    judge = read_judge(run)
    if not judge.config.unseen:
        raise RequestError(
            f"the judge of {run} knows no noun that its model has not seen: train one with "
            f"--recipe small"
        )
    noun = noun or judge.config.unseen[0]
    if noun not in judge.config.unseen:
        raise RequestError(f"--noun is {noun!r}: choose from {', '.join(judge.config.unseen)}")
    source = None if bundle is None else Bundle.open(bundle)
    writer = ResultsWriter("adapter", source, output)
    evaluation = CartoonsEvaluation.by(judge)
    for row in measure(run, evaluation, noun, clips, steps, captions, bundle):
        writer.add(row)
    rows = writer.rows
    writer.publish(rows, table(rows, noun, captions), lambda axes: draw(axes, rows))


if __name__ == "__main__":
    run_command(app, "adapter.py", PARTIAL_RESULTS)
