"""Commands that judge models and picture what they make."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hummingbird_edge.distill.commands.options import (
    AsJson,
    BundleFolder,
    BundleOption,
    Captions,
    JudgeOption,
    RunFolder,
    Seed,
    WorldOption,
    given_for_cartoons,
)
from hummingbird_edge.distill.commands.progress import show_progress
from hummingbird_edge.distill.worlds import BUILTIN_WORLD, bundle_of, evaluation_of
from hummingbird_edge.runtime.command import require_modules
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["ablate", "card", "judge", "quantize", "score", "strip"]


def score(
    bundle: BundleFolder = None,
    captions: Captions = 400,
    seed: Annotated[int, typer.Option(help="Chooses the captions.")] = 0,
    world: WorldOption = BUILTIN_WORLD,
    judge: JudgeOption = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Else the bundle's own.")] = None,
    device: Annotated[str, typer.Option(help="As for hb-run.")] = "cpu",
    precision: Annotated[str, typer.Option(help="As for hb-run.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Make a video for each of many captions never trained on, and judge their pixels."""
    from hummingbird_edge.distill.evaluation import evaluate_bundle

    source, evaluation = bundle_of(world, bundle), evaluation_of(world, judge)
    backend = {"device": device, "precision": precision}
    scores = evaluate_bundle(source, evaluation, captions, seed, show_progress, frames, **backend)
    typer.echo(json.dumps(asdict(scores)) if as_json else scores.table())


def judge(
    bundle: BundleFolder = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips to draw.")] = 400,
    seed: Annotated[int, typer.Option(help="Chooses the clips.")] = 0,
    world: WorldOption = BUILTIN_WORLD,
    judge: JudgeOption = None,
) -> None:
    """Measure the judge's own errors: on rendered clips, and on those after a bundle's VAE."""
    from hummingbird_edge.distill.evaluation import evaluate_judge
    from hummingbird_edge.runtime.bundle.bundle import Bundle

    source, evaluation = Bundle.open(bundle_of(world, bundle)), evaluation_of(world, judge)
    found = evaluate_judge(source, evaluation, clips, seed)
    for name, scores in found.items():
        typer.echo(f"{name}\n{scores.table()}\n")


def quantize(
    output: Annotated[Path, typer.Argument(help="The new bundle's folder.")],
    bundle: BundleOption = None,
    precision: Annotated[str, typer.Option(help="As for hb-export quantize.")] = "fp32+int8",
    calibration: Annotated[int, typer.Option(min=1, help="Captions to calibrate on.")] = 16,
    held_out: Annotated[
        int, typer.Option(min=0, help="Videos to compare with float32; 0 for no search.")
    ] = 16,
    min_psnr: Annotated[float, typer.Option(help="Of these videos, in dB.")] = 36.0,
    captions: Captions = 400,
    seed: Annotated[int, typer.Option(min=0, help="Chooses captions and noise.")] = 0,
    world: WorldOption = BUILTIN_WORLD,
    judge: JudgeOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle there.")] = False,
) -> None:
    """Quantize on captions of the world as hb-export quantize does; judge before and after."""
    require_modules("quantize", "onnx", "onnx_ir", "skimage", "matplotlib")
    from hummingbird_edge.distill.quantized import quantize_judged

    quantize_judged(
        bundle_of(world, bundle),
        output,
        evaluation_of(world, judge),
        precision=precision,
        calibration=calibration,
        held_out=held_out,
        min_psnr_db=min_psnr,
        captions=captions,
        seed=seed,
        force=force,
        report=typer.echo,
    )
    typer.echo(output)


def ablate(
    run: RunFolder,
    world: WorldOption = BUILTIN_WORLD,
    budget: Annotated[
        str | None, typer.Option(help="Cartoons: time of every student; else 3m.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Cartoons: cpu or cuda, else what there is.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Shapes: steps of stage 2 of every student; else 150.")
    ] = None,
    captions: Annotated[
        int | None, typer.Option(min=2, help="Held-out captions to judge, else 48; of shapes 200.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train students without each part of the recipe, and judge them; goes on where it stopped."""
    given = given_for_cartoons(world, budget=budget, device=device)
    if world == "cartoons":
        from hummingbird_edge.distill.cartoons.ablation import Ablation
        from hummingbird_edge.distill.cartoons.ablation import ablate as compare

        if steps is not None:
            raise RequestError("--steps is for --world shapes: give --budget, as in 3m")
        typer.echo(compare(Ablation(run, captions=captions or 48, seed=seed, **given)))
        return
    from hummingbird_edge.distill.ablation import ablate as run_ablation
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.sources import Sources

    typer.echo(run_ablation(Sources(run), SHAPES_RECIPE, steps or 150, captions or 200, seed))


def card(
    run: RunFolder,
    output: Annotated[Path, typer.Argument(help="The folder of the card.")],
    bundle: BundleOption = None,
    captions: Captions = 400,
    world: WorldOption = BUILTIN_WORLD,
    judge: Annotated[
        Path | None, typer.Option(help="Cartoons: another run's judge, or weights of --pack.")
    ] = None,
) -> None:
    """Write the run's model card: data, stages, losses, scores, samples."""
    from hummingbird_edge.distill.cartoons.card import write_card
    from hummingbird_edge.distill.cartoons.scoring import CartoonsEvaluation

    source = bundle_of(world, bundle)
    evaluation = evaluation_of(world, (judge or run) if world == "cartoons" else judge)
    if isinstance(evaluation, CartoonsEvaluation):
        typer.echo(write_card(run, source, evaluation, output, captions, show_progress))
        return
    from hummingbird_edge.distill.card import make_card
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE

    typer.echo(make_card(run, SHAPES_RECIPE, source, output, captions, show_progress))


def strip(
    output: Annotated[Path, typer.Argument(help="The PNG to write.")],
    prompts: Annotated[list[str], typer.Argument(help="One row of frames per prompt.")],
    bundle: BundleOption = None,
    seed: Annotated[int, typer.Option(help="Seed of every video.")] = 7,
) -> None:
    """Picture the frames of several prompts, a row each."""
    from hummingbird_edge.distill.strip import picture_prompts
    from hummingbird_edge.runtime.bundle.bundle import BUILTIN

    picture_prompts(output, bundle or BUILTIN, prompts, seed)
    typer.echo(output)
