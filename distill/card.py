"""The model card of a run: data, stages, losses, scores and pictures, from the run's files."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hummingbird_edge.distill.ablation import ablation_table
from hummingbird_edge.distill.evaluation import Scores, evaluate
from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.score import ShapesEvaluation
from hummingbird_edge.distill.strip import write_strips
from hummingbird_edge.distill.train.prune import Pruning
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = ["make_card", "write_card"]

TRAINED = ("autoencoder", "teacher", "matching", "scorer", "consistency", "decoder")
PROMPTS = (
    "a red star moving right",
    "a small cyan circle moving to the left on a pink background",
    "a big purple triangle rises on a white background",
    "an orange cross sinks against gray",
    "a small yellow square moving in a circle",
    "a green circle bouncing on a white background",
    "a blue star getting bigger on a gray background",
    "a cyan cross spinning in place on a black background",
)
"""One of each motion; every colour and shape is among them."""


def make_card(
    run: Path,
    recipe: Recipe,
    bundle: Path,
    output: Path,
    captions: int = 400,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Path:
    """Score the bundle made of a run's student and write its card; returns the page.

    Raises RequestError where a stage has not run.
    """
    read_logs(run)  # before minutes of scoring
    pipeline = TextToVideo.from_bundle(bundle, device="cpu")
    scores = evaluate(pipeline, ShapesEvaluation(recipe.world), captions, 0, report)
    write_card(run, recipe, pipeline, scores, output)
    return output / "README.md"


def write_card(
    run: Path, recipe: Recipe, pipeline: TextToVideo, scores: Scores, output: Path
) -> None:
    """Write `output/README.md`, `losses.png` and `samples.png`; raises RequestError.

    `pipeline` is the bundle made of the run's student, `scores` what `hb-distill score` found.
    """
    logs = read_logs(run)
    output.mkdir(parents=True, exist_ok=True)
    plot_losses(logs, output / "losses.png")
    write_strips(output / "samples.png", [pipeline(text, seed=7).frames for text in PROMPTS], 1)
    text = card_text(run, recipe, pipeline.bundle, scores, logs)
    (output / "README.md").write_text(text, encoding="utf-8", newline="\n")


def read_logs(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what each stage logged; raises RequestError where one has not run."""
    logs = {stage: Run(run, stage).entries() if run.is_dir() else [] for stage in TRAINED}
    missing = [stage for stage, entries in logs.items() if not entries]
    if missing:
        raise RequestError(
            f"{run} has no log of {', '.join(missing)}: run hb-distill all {run} --world shapes"
        )
    return logs


def card_text(
    run: Path,
    recipe: Recipe,
    bundle: Bundle,
    scores: Scores,
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Return the card in Markdown."""
    world, defaults = recipe.world, bundle.manifest.defaults
    parts = [
        f"# {bundle.manifest.name}",
        f"A text-to-video model of moving shapes: {defaults.frames} frames of {defaults.width} x "
        f"{defaults.height} pixels in {defaults.steps} steps, {bundle.bytes / 1e6:.1f} MB. Its "
        f"purpose is to try, test and measure the runtime; it knows only these shapes.",
        "![samples](samples.png)",
        "\n".join(f"{index}. {prompt}" for index, prompt in enumerate(PROMPTS, 1)),
        "## Data",
        f"{recipe.clips} clips, drawn by `distill/world/shapes/render.py`: "
        f"{len(world.colours)} colours ({', '.join(world.colours)}), "
        f"{len(world.shapes)} shapes ({', '.join(world.shapes)}), "
        f"{len(world.sizes)} sizes, {len(world.motions)} motions ({', '.join(world.motions)}), "
        f"{len(world.backgrounds)} backgrounds ({', '.join(world.backgrounds)}), one object a "
        f"clip. One caption text in ten, by a hash, is never trained on.",
        "## Stages",
        stages_table(logs, recipe),
        "![losses](losses.png)",
        "## Pruning",
        "Whatever is not kept is dropped, the middle block too.",
        Pruning.read(run / "prune.json").table(),
        "## Scores",
        f"`hb-distill score --world shapes`: {scores.captions} held-out captions that were neither "
        f"trained on nor watched in training, one video each with a seed of its own, through the "
        f"runtime, read from the decoded pixels by `distill/world/shapes/judge.py`. Quality is the "
        f"mean of `distill/world/shapes/quality.py` over that of rendered clips of these scenes.",
        scores.table(),
    ]
    if (run / "notes.md").exists():
        parts += ["## Notes", (run / "notes.md").read_text(encoding="utf-8").strip()]
    if (run / "ablation.json").exists():
        steps = next(
            iter(json.loads((run / "ablation.json").read_text(encoding="utf-8")).values())
        )["steps"]
        parts += [
            "## What each ingredient brings",
            f"`hb-distill ablate --world shapes`: stage 2 for {steps:.0f} steps from the same "
            f"teacher each time (this card's model trained longer), judged on other held-out "
            f"captions.",
            ablation_table(run / "ablation.json"),
        ]
    return "\n\n".join(parts) + "\n"


def stages_table(logs: Mapping[str, Sequence[Mapping[str, Any]]], recipe: Recipe) -> str:
    """Return how long each stage trained and where it ended."""
    lines = ["| stage | steps | batch | peak rate | minutes | last loss |", "|---" * 6 + "|"]
    for stage, entries in logs.items():
        known = recipe.plans[stage]
        plan = {"batch": known.batch, "rate": known.peak_rate, **_planned(entries)}
        losses = [entry for entry in entries if "loss" in entry]
        lines.append(
            f"| {stage} | {losses[-1]['step']} | {plan['batch']} | {plan['rate']:g} "
            f"| {_minutes(entries):.0f} | {losses[-1]['loss']:.4f} |"
        )
    return "\n".join(lines)


def _planned(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the plan that the stage logged when it was last started."""
    plans = [entry for entry in entries if "rate" in entry]
    return plans[-1] if plans else {}


def _minutes(entries: Sequence[Mapping[str, Any]]) -> float:
    """Return the time trained; the log's clock restarts whenever a run is resumed."""
    seconds = [float(entry["seconds"]) for entry in entries]
    ends = [a for a, b in zip(seconds, [*seconds[1:], 0.0], strict=True) if b < a]
    return sum(ends) / 60


def plot_losses(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw each stage's losses over its steps, one panel a stage."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(logs), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (stage, entries) in zip(figure.subplots(1, len(logs)), logs.items(), strict=True):
        losses = [entry for entry in entries if "loss" in entry]
        names = [name for name in losses[0] if name not in ("seconds", "step")]
        for name in names:
            known = [entry for entry in losses if name in entry]
            panel.plot([e["step"] for e in known], [e[name] for e in known], label=name)
        panel.set_title(stage)
        panel.set_xlabel("step")
        panel.legend(fontsize="x-small")
    figure.savefig(path, dpi=80)
