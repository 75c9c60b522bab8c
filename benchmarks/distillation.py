"""What distillation gains: the 4-step student against its own teacher of 50 guided steps.

    python benchmarks/distillation.py RUN               after hb-distill all RUN

Both make the same captions through PyTorch on the same machine, one after the other in turns: text
encoder, U-Net steps and VAE of one clip at a time. Prints a Markdown table: median and spread of
the seconds a clip, their ratio, and how many of `--captions` clips show all that was asked.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

from hummingbird_edge.distill.model import Model
from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
from hummingbird_edge.distill.sampling import generate
from hummingbird_edge.distill.score import FIRST_SEED, Scores, score_clips, unseen_captions


def seconds_a_clip(models: dict[str, Model], prompts: list[str]) -> dict[str, list[float]]:
    """Time one clip a prompt by each model in turns; the first prompt only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for index, prompt in enumerate(prompts):
        for name, model in models.items():
            started = time.perf_counter()
            generate(model, [prompt], seed=FIRST_SEED + index)
            if index:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def scored(model: Model, captions: int, seed: int) -> Scores:
    """Judge one clip a held-out caption."""
    pairs = unseen_captions(BUILTIN_RECIPE.world, captions, seed)
    clips = generate(model, [caption for _, caption in pairs], seed=FIRST_SEED)
    return score_clips(clips, [scene for scene, _ in pairs], BUILTIN_RECIPE.world)


def main() -> None:
    """Print the table; `--output` writes the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--captions", type=int, default=100, help="captions to judge (100)")
    parser.add_argument("--clips", type=int, default=6, help="clips to time, the first not counted")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    for folder in ("teacher", "student"):
        if not (options.run / folder).is_dir():
            sys.exit(f"{options.run} has no {folder}: run hb-distill all {options.run} first")
    models = {name: Model.read(options.run / name).frozen() for name in ("teacher", "student")}
    prompts = [text for _, text in unseen_captions(BUILTIN_RECIPE.world, options.clips, 5)]
    seconds = seconds_a_clip(models, prompts)
    scores = {name: scored(model, options.captions, 0) for name, model in models.items()}
    print(f"| | steps | seconds a clip | spread | all right, of {options.captions} |")
    print("|---|---|---|---|---|")
    for name, model in models.items():
        defaults, taken = model.config.defaults, seconds[name]
        guided = "" if model.config.unet.guidance_width else ", guided"
        print(
            f"| {name} | {defaults.steps}{guided} | {statistics.median(taken):.3f} "
            f"| {max(taken) - min(taken):.3f} | {100 * scores[name].accuracy['all']:.1f} % |"
        )
    ratio = statistics.median(seconds["teacher"]) / statistics.median(seconds["student"])
    print(f"\nThe student is {ratio:.1f} times faster.")
    if options.output:
        facts = {
            "seconds": seconds,
            "ratio": ratio,
            "accuracy": {name: s.accuracy for name, s in scores.items()},
            "captions": options.captions,
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {"torch": version("torch"), "python": platform.python_version()},
        }
        options.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
