"""The card of a model of cartoons: what it was made of, what its judge says, and where it fails."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.cartoons.ablation import ablation_table
from hummingbird_edge.distill.cartoons.recipe import RECIPE
from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation
from hummingbird_edge.distill.evaluation import make_clips, require_known_words
from hummingbird_edge.distill.strip import write_strips
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.world.cartoons.judge import Verdict
from hummingbird_edge.distill.world.cartoons.shots import COLOURS, Shot, World
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import read_record
from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = ["write_card"]

SHOWN = 8
"""Clips in each picture."""
MAX_CONFUSIONS = 20
"""Pairs of nouns that are listed at most."""


def write_card(
    run: Path,
    bundle: Path,
    evaluation: CartoonsEvaluation,
    output: Path,
    captions: int = 400,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Path:
    """Judge a bundle made of a run's student and write `output/README.md` with pictures.

    Raises RequestError where the run has no logs, or for a model of another world.
    """
    stages = _stages(run)
    pipeline = TextToVideo.from_bundle(bundle, device="cpu")
    shots, texts = zip(*evaluation.sample(captions, 0), strict=True)
    require_known_words(pipeline.bundle, texts)
    clips = make_clips(pipeline, texts, report)
    scores, verdicts = evaluation.examine(clips, shots)
    wrong = [
        index
        for index, (shot, verdict) in enumerate(zip(shots, verdicts, strict=True))
        if not verdict.score(shot)["all"]
    ][:SHOWN]
    output.mkdir(parents=True, exist_ok=True)
    shown = range(min(SHOWN, captions))
    parts = [
        *_opening(pipeline.bundle, evaluation.world),
        "## Samples",
        "The first held-out captions of the scores below, not chosen; every other frame.",
        _pictured(output / "samples.png", clips, [(i, texts[i]) for i in shown]),
        "## Stages",
        stages,
        "## Scores",
        f"`hb-distill score --world cartoons`: {captions} shots whose combination of noun, path "
        f"and ground is held out, one video each with a seed of its own, through the runtime, read "
        f"from the decoded pixels by `distill/world/cartoons/judge.py`. `all` is noun, ground and "
        f"path at once; `action` the share in which the noun's own action is seen. Quality is that "
        f"of `distill/world/cartoons/quality.py` over that of rendered clips of the same shots.",
        scores.table(),
        *_measured(run),
        "## Failures",
        confusions(shots, verdicts),
    ]
    if wrong:
        labels = [(i, f"{texts[i]} ({_seen(verdicts[i].shot)})") for i in wrong]
        parts += [
            "The first clips of which noun, ground or path is wrong, and what the judge saw:",
            _pictured(output / "failures.png", clips, labels),
        ]
    if rows := read_record(run / "ablation.json"):
        row = next(iter(rows.values()))
        parts += [
            "## What each part brings",
            f"`hb-distill ablate`: the teacher, the student, and students of the same teacher "
            f"that were trained for {row['budget_s']:.0f} seconds; {row['captions']} held-out "
            f"shots drawn apart from those above.",
            ablation_table(rows),
        ]
    if (run / "notes.md").exists():
        parts += ["## Notes", (run / "notes.md").read_text(encoding="utf-8").strip()]
    page = output / "README.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")
    return page


def _opening(bundle: Bundle, world: World) -> list[str]:
    defaults = bundle.manifest.defaults
    scenes = [ground for ground in world.grounds if ground not in COLOURS]
    colours = [ground for ground in world.grounds if ground in COLOURS]
    return [
        f"# {bundle.manifest.name}",
        f"A text-to-video model of cartoons: {defaults.frames} frames of {defaults.width} x "
        f"{defaults.height} pixels in {defaults.steps} steps, {bundle.bytes / 1e6:.1f} MB.",
        "## Data",
        f"Clips drawn by `distill/world/cartoons/render.py`: {len(world.nouns)} nouns "
        f"({', '.join(world.nouns)}), each with the one action that it has; {len(world.paths)} "
        f"paths ({', '.join(world.paths)}), {len(world.sizes)} sizes, {len(scenes)} scenes "
        f"({', '.join(scenes)}) and {len(colours)} plain colours. There is one animation a noun, "
        f"so the model remembers sprites and what it makes new are combinations. One combination "
        f"of noun, path and ground in ten, by a hash, is never trained on.",
        "The sprites are Microsoft's Fluent Emoji Animated (MIT licence, Copyright (c) Microsoft "
        "Corporation; `distill/world/cartoons/sprites/LICENSE`). Words that no caption has come "
        "from WordNet 3.1 (`distill/world/cartoons/WORDNET_LICENSE`).",
    ]


def _stages(run: Path) -> str:
    """Return how long each stage trained and where it ended."""
    logs = {name: Run(run, name).entries() for name in RECIPE.plans} if run.is_dir() else {}
    losses = {name: [e for e in entries if "loss" in e] for name, entries in logs.items()}
    if not any(losses.values()):
        raise RequestError(f"{run} has no logs of a run: run hb-distill all {run} --world cartoons")
    lines = ["| stage | steps | minutes of a process | last loss |", "|---" * 4 + "|"]
    for name, entries in losses.items():
        if entries:
            last = entries[-1]
            lines.append(
                f"| {name} | {last['step']} | {last['spent_s'] / 60:.0f} | {last['loss']:.4f} |"
            )
    return "\n".join(lines)


def _measured(run: Path) -> list[str]:
    """Return what VAE and judge do on held-out rendered clips, where that was measured."""
    path = run / "measured.json"
    if not path.exists():
        return []
    figures = json.loads(path.read_text(encoding="utf-8"))
    lines = ["| on held-out rendered clips | |", "|---|---|"]
    for name, own in figures.items():
        said = ", ".join(f"{key} {value:g}" for key, value in own.items())
        lines.append(f"| {name} | {said} |")
    return ["The scores can be no better than VAE and judge are:", "\n".join(lines)]


def confusions(shots: Sequence[Shot], verdicts: Sequence[Verdict]) -> str:
    """Return a table of the nouns that the judge took for others."""
    pairs = Counter(
        (shot.noun, verdict.shot.noun)
        for shot, verdict in zip(shots, verdicts, strict=True)
        if shot.noun != verdict.shot.noun
    )
    if not pairs:
        return "Every noun was seen as it was asked for."
    asked = Counter(shot.noun for shot in shots)
    lines = ["| asked for | seen | times | of |", "|---|---|---|---|"]
    lines += [
        f"| {noun} | {seen} | {count} | {asked[noun]} |"
        for (noun, seen), count in pairs.most_common(MAX_CONFUSIONS)
    ]
    if len(pairs) > MAX_CONFUSIONS:
        lines.append(f"| {len(pairs) - MAX_CONFUSIONS} pairs more | | | |")
    return "\n".join(lines)


def _pictured(path: Path, clips: NDArray[np.uint8], labels: Sequence[tuple[int, str]]) -> str:
    """Write every other frame of some clips, a row each; returns the picture and its rows."""
    write_strips(path, [clips[index, ::2] for index, _ in labels], scale=1)
    rows = [f"{row}. {text}" for row, (_, text) in enumerate(labels, 1)]
    return f"![{path.stem}]({path.name})\n\n" + "\n".join(rows)


def _seen(shot: Shot) -> str:
    return f"seen: {shot.size} {shot.noun}, {shot.path}, {shot.ground}"
