"""The command `hb-distill`: train, prune, distil and judge, stage by stage.

Every training stage goes on from its last checkpoint when it is started again.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hummingbird_edge.runtime.command import Version, require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

RunFolder = Annotated[Path, typer.Argument(help="The run's folder: logs, checkpoints, models.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes weights, data and noise.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps in all, if not the recipe's.")]
Teacher = Annotated[Path | None, typer.Option(help="A teacher from elsewhere: folder or file.")]
Student = Annotated[Path | None, typer.Option(help="A student from elsewhere to start from.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Clips a step and process.")]
ClipsFile = Annotated[Path | None, typer.Option(help="Clips encoded by hb-distill clips.")]
BundleFolder = Annotated[Path | None, typer.Argument(help="A bundle, else the built-in one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def needs_pytorch(version: Version = False) -> None:
    """Train, prune, distil and judge models of moving shapes, or of your own videos."""
    require_modules("distill", "torch", "safetensors", "accelerate")


@app.command(name="all")
def everything(run: RunFolder, seed: Seed = 0) -> None:
    """Run every stage that is not finished, from nothing to the 4-step student."""
    from hummingbird_edge.distill.stages import STAGES

    for name in STAGES:
        _train(name, run, seed)


@app.command()
def autoencoder(run: RunFolder, steps: Steps = None, seed: Seed = 0) -> None:
    """Train the VAE on frames of the world."""
    _train("autoencoder", run, seed, steps)


@app.command()
def clips(
    run: RunFolder,
    videos: Annotated[
        Path | None, typer.Option(help="A folder that hb-distill curate wrote, not the world.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Whose VAE encodes the videos, if not the run's teacher.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames a clip, if not the model's.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, if not the model's.")] = None,
    seed: Seed = 0,
) -> None:
    """Encode clips once for every stage: the world's, or videos of your own."""
    if videos is None:
        if model is not None or frames is not None or size is not None:
            raise RequestError("--model, --frames and --size are for --videos: give that too")
        _train("clips", run, seed)
        return
    from hummingbird_edge.distill.data.curate import encode_curated
    from hummingbird_edge.runtime.request import parse_size

    output = run / "clips.safetensors"
    if output.exists():
        raise RequestError(f"{output} is there already: choose another RUN, or delete it")
    if model is None and not (run / "teacher").exists():
        raise RequestError(f"{run} has no teacher whose VAE encodes: say whose with --model")
    asked = frames, parse_size(size)
    encode_curated(videos, model or run / "teacher", output, *asked, _show_progress)
    typer.echo(output)


@app.command()
def teacher(run: RunFolder, steps: Steps = None, clips: ClipsFile = None, seed: Seed = 0) -> None:
    """Train text encoder and U-Net with caption dropout."""
    _train("teacher", run, seed, steps, clips=clips)


@app.command()
def prune(
    run: RunFolder,
    teacher: Teacher = None,
    preset: Annotated[
        str | None, typer.Option(help="Prune to hummingbird-0.7b or -0.9b, not the recipe's.")
    ] = None,
    clips: ClipsFile = None,
) -> None:
    """Keep the teacher's most important blocks: writes RUN/pruned and RUN/prune.json."""
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE
    from hummingbird_edge.distill.stages import Sources, write_pruned

    pruning = write_pruned(Sources(run, teacher, clips=clips), RECIPE, preset)
    typer.echo(pruning.table())


@app.command()
def matching(
    run: RunFolder,
    steps: Steps = None,
    teacher: Teacher = None,
    student: Student = None,
    clips: ClipsFile = None,
    batch: Batch = None,
    guidance: Annotated[float | None, typer.Option(help="The teacher's w.")] = None,
    seed: Seed = 0,
) -> None:
    """Stage 1: the pruned student does what its guided teacher does."""
    changes: dict[str, object] = {}
    if guidance is not None:
        changes["guidance"] = guidance
    _train("matching", run, seed, steps, teacher, student, clips, batch, matching=changes)


@app.command()
def scorer(run: RunFolder, steps: Steps = None, seed: Seed = 0) -> None:
    """Train the contrastive text-video scorer that stage 2 takes as a reward."""
    _train("scorer", run, seed, steps)


@app.command()
def consistency(
    run: RunFolder,
    steps: Steps = None,
    teacher: Teacher = None,
    student: Student = None,
    clips: ClipsFile = None,
    batch: Batch = None,
    guidance: Annotated[
        tuple[float, float] | None, typer.Option(help="Least and most w, such as 5 15.")
    ] = None,
    rewards: Annotated[
        str | None, typer.Option(help="NAME=WEIGHT,...: shapes, scorer, MODULE:FUNCTION; or none.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Stage 2: latent consistency to 4 steps, with visual feedback; writes RUN/distilled."""
    changes: dict[str, object] = {}
    if guidance is not None:
        if not 0 <= guidance[0] <= guidance[1]:
            raise RequestError(f"--guidance is {guidance[0]:g} {guidance[1]:g}: give least, most")
        changes["guidance"] = guidance
    weights = None if rewards is None else _parse_rewards(rewards)
    _train(
        "consistency", run, seed, steps, teacher, student, clips, batch, weights,
        consistency=changes,
    )  # fmt: skip


@app.command()
def decoder(run: RunFolder, steps: Steps = None, student: Student = None, seed: Seed = 0) -> None:
    """Finetune the VAE's decoder for latents that are made, not encoded; writes RUN/student."""
    _train("decoder", run, seed, steps, student=student)


@app.command()
def lora(
    model: Annotated[Path, typer.Argument(help="A model folder, such as RUN/student.")],
    clips: Annotated[Path, typer.Argument(help="Clips encoded by hb-distill clips.")],
    output: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 200,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the update of each weight.")] = 8,
    seed: Seed = 0,
) -> None:
    """Teach a student a style or a subject; hb-export build --lora merges it."""
    from hummingbird_edge.distill.train.lora import train_lora

    train_lora(model, clips, output, steps, rank, seed)
    typer.echo(output)


@app.command()
def curate(
    videos: Annotated[Path, typer.Argument(help="Videos with NAME.txt or metadata.jsonl.")],
    output: Annotated[Path, typer.Argument(help="Where kept.jsonl and dropped.json go.")],
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible URL that rewrites captions.")
    ] = None,
    endpoint_model: Annotated[str, typer.Option(help="The model to ask for there.")] = "default",
    min_quality: Annotated[float, typer.Option(help="Least quality score, 0 to 1.")] = 0.2,
    min_smoothness: Annotated[float, typer.Option(help="Least smoothness, 0 to 1.")] = 0.5,
) -> None:
    """Filter a folder of captioned videos and enrich the captions; says what was dropped."""
    from hummingbird_edge.distill.data.curate import Thresholds, curate_folder
    from hummingbird_edge.distill.data.enrich import ChatEnricher, TemplateEnricher

    enricher = ChatEnricher(endpoint, endpoint_model) if endpoint else TemplateEnricher()
    thresholds = Thresholds(min_quality, min_smoothness)
    typer.echo(curate_folder(videos, output, enricher, thresholds, _show_progress).table())


@app.command()
def score(
    bundle: BundleFolder = None,
    captions: Annotated[int, typer.Option(min=1, help="Held-out captions to ask for.")] = 400,
    seed: Annotated[int, typer.Option(help="Which captions.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a video for each of many captions never trained on, and judge their pixels."""
    from dataclasses import asdict

    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE
    from hummingbird_edge.distill.score import score_pipeline
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN
    from hummingbird_edge.runtime.pipeline import TextToVideo

    pipeline = TextToVideo.from_bundle(bundle or BUILTIN, device="cpu")
    scores = score_pipeline(pipeline, RECIPE.world, captions, seed, _show_progress)
    typer.echo(json.dumps(asdict(scores)) if as_json else scores.table())


@app.command()
def quantize(
    output: Annotated[Path, typer.Argument(help="The new bundle's folder.")],
    bundle: Annotated[Path | None, typer.Option(help="In float32, else the built-in one.")] = None,
    precision: Annotated[str, typer.Option(help="As for hb-export quantize.")] = "fp32+int8",
    calibration: Annotated[int, typer.Option(min=1, help="Captions to calibrate on.")] = 16,
    held_out: Annotated[
        int, typer.Option(min=0, help="Videos to compare with float32; 0 for no search.")
    ] = 16,
    min_psnr: Annotated[float, typer.Option(help="Of these videos, in dB.")] = 36.0,
    captions: Annotated[int, typer.Option(min=1, help="Held-out captions to judge.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Which captions, and what noise.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle there.")] = False,
) -> None:
    """Do what hb-export quantize does, on captions of the world, and judge before and after."""
    require_modules("quantize", "onnx", "onnx_ir", "skimage", "matplotlib")
    from hummingbird_edge.distill.quantized import judged_captions
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE
    from hummingbird_edge.quantize import quantize_bundle
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle

    source, world = bundle or BUILTIN, RECIPE.world
    others, judge = judged_captions(
        Bundle.open(source).manifest, world, captions, calibration + held_out, seed
    )
    quantize_bundle(
        source,
        output,
        precision=precision,
        prompts=others,
        calibration=calibration,
        held_out=held_out,
        min_psnr=min_psnr,
        seed=seed,
        judge=judge,
        notify=typer.echo,
        force=force,
    )
    typer.echo(output)


@app.command()
def ablate(
    run: RunFolder,
    steps: Annotated[int, typer.Option(min=1, help="Steps of stage 2 of every variant.")] = 150,
    captions: Annotated[int, typer.Option(min=1, help="Held-out captions to judge.")] = 200,
    seed: Seed = 0,
) -> None:
    """Train the recipe without each ingredient in turn, and judge; goes on where it stopped."""
    from hummingbird_edge.distill.ablation import ablate as run_ablation
    from hummingbird_edge.distill.ablation import ablation_table
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE
    from hummingbird_edge.distill.stages import Sources

    run_ablation(Sources(run), RECIPE, steps, captions, seed)
    typer.echo(ablation_table(run / "ablation.json"))


@app.command()
def card(
    run: RunFolder,
    output: Annotated[Path, typer.Argument(help="The folder of the card.")],
    bundle: Annotated[Path | None, typer.Option(help="Its bundle, else the built-in.")] = None,
    captions: Annotated[int, typer.Option(min=1, help="Held-out captions to ask for.")] = 400,
) -> None:
    """Write the run's model card: data, stages, losses, scores, samples."""
    from hummingbird_edge.distill.card import read_logs, write_card
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE
    from hummingbird_edge.distill.score import score_pipeline
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN
    from hummingbird_edge.runtime.pipeline import TextToVideo

    read_logs(run)  # before minutes of scoring
    pipeline = TextToVideo.from_bundle(bundle or BUILTIN, device="cpu")
    scores = score_pipeline(pipeline, RECIPE.world, captions, 0, _show_progress)
    write_card(run, RECIPE, pipeline, scores, output)
    typer.echo(output / "README.md")


@app.command()
def judge(
    bundle: BundleFolder = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips to draw.")] = 400,
    seed: Annotated[int, typer.Option(help="Which clips.")] = 0,
) -> None:
    """Score rendered clips, plain and through a bundle's VAE: what the judge itself misses."""
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE
    from hummingbird_edge.distill.score import judge_the_judge
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle

    found = judge_the_judge(Bundle.open(bundle or BUILTIN), RECIPE.world, clips, seed)
    for name, scores in found.items():
        typer.echo(f"{name}\n{scores.table()}\n")


@app.command()
def strip(
    output: Annotated[Path, typer.Argument(help="The PNG to write.")],
    prompts: Annotated[list[str], typer.Argument(help="One row of frames a prompt.")],
    bundle: Annotated[Path | None, typer.Option(help="A bundle, else the built-in one.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every video.")] = 7,
) -> None:
    """Picture the frames of several prompts, a row each."""
    from hummingbird_edge.distill.strip import write_strips
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN
    from hummingbird_edge.runtime.pipeline import TextToVideo

    pipeline = TextToVideo.from_bundle(bundle or BUILTIN, device="cpu")
    write_strips(output, [pipeline(prompt, seed=seed).frames for prompt in prompts])
    typer.echo(output)


def _train(
    stage: str,
    run: Path,
    seed: int,
    steps: int | None = None,
    teacher: Path | None = None,
    student: Path | None = None,
    clips: Path | None = None,
    batch: int | None = None,
    rewards: dict[str, float] | None = None,
    **changes: dict[str, object],
) -> None:
    """Run one stage by the built-in recipe; `changes` replace fields of its parts, by name."""
    from dataclasses import replace

    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
    from hummingbird_edge.distill.stages import STAGES, Sources, with_plan

    recipe = with_plan(BUILTIN_RECIPE, stage, steps, batch)
    for part, fields in changes.items():
        recipe = replace(recipe, **{part: replace(getattr(recipe, part), **fields)})
    if rewards is not None:
        recipe = replace(recipe, rewards=rewards)
    STAGES[stage](Sources(run, teacher, student, clips), recipe, seed)


def _show_progress(done: int, count: int) -> None:
    """Count on stderr, in place; a pipe or a log file gets every tenth part, a line each."""
    in_place = sys.stderr.isatty()
    if in_place or done == count or done * 10 // count > (done - 1) * 10 // count:
        end = "\r" if in_place and done < count else "\n"
        print(f"{done}/{count}", end=end, file=sys.stderr, flush=True)


def _parse_rewards(text: str) -> dict[str, float]:
    if text == "none":
        return {}
    try:
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError as error:
        raise RequestError(
            f"--rewards is {text!r}: write NAME=WEIGHT,NAME=WEIGHT or none"
        ) from error


def main() -> None:
    """Run the command; the entry point of `hb-distill`."""
    run_command(app, "hb-distill", "run the same command again to go on from its last checkpoint")
