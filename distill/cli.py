"""The command `hb-distill`: train the built-in model, stage by stage, and score it.

Every stage goes on from its last checkpoint when it is started again.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

RunFolder = Annotated[Path, typer.Argument(help="The run's folder: logs and checkpoints.")]


@app.callback()
def needs_pytorch() -> None:
    """Train the built-in model, stage by stage, and score it."""
    require_modules("hb-distill", "distill", "torch", "safetensors")


Seed = Annotated[int, typer.Option(help="Fixes weights, data and noise.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps, if not the recipe's.")]


@app.command()
def autoencoder(run: RunFolder, steps: Steps = None, seed: Seed = 0) -> None:
    """Stage 1: train the VAE on frames of the world."""
    from hummingbird_edge.distill.autoencoder import train_autoencoder
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE

    train_autoencoder(
        run, RECIPE.pictures, RECIPE.config.vae, steps or RECIPE.autoencoder_steps, seed=seed
    )


@app.command()
def generator(run: RunFolder, steps: Steps = None, seed: Seed = 0) -> None:
    """Stage 2: train text encoder and U-Net on encoded clips."""
    from hummingbird_edge.distill.generator import train_generator
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE

    _require(run / "autoencoder.pt", "hb-distill autoencoder")
    train_generator(
        run,
        RECIPE.world,
        RECIPE.full_config(),
        RECIPE.trained_autoencoder(run),
        RECIPE.tokenizer(run),
        steps or RECIPE.generator_steps,
        clips=RECIPE.clips,
        seed=seed,
    )


@app.command()
def checkpoint(run: RunFolder) -> None:
    """Write RUN/model.safetensors and RUN/config.json, ready for hb-export build."""
    _require(run / "generator.pt", "hb-distill generator")
    from hummingbird_edge.distill.published import write_published
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE

    write_published(run, RECIPE)
    typer.echo(
        f"hb-export build {run / 'model.safetensors'} BUNDLE --config {run / 'config.json'} "
        f"--tokenizer {run / 'tokenizer'} --storage float16 --name moving-shapes"
    )


@app.command()
def score(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle, else the built-in one.")] = None,
    captions: Annotated[int, typer.Option(help="Held-out captions to ask for.")] = 200,
    seed: Annotated[int, typer.Option(help="Which captions.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a video for each of many captions never trained on, and judge their pixels."""
    import sys
    from dataclasses import asdict

    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE as RECIPE
    from hummingbird_edge.distill.score import score_pipeline
    from hummingbird_edge.runtime.bundle import BUILTIN
    from hummingbird_edge.runtime.text_to_video import TextToVideo

    def report(done: int) -> None:
        print(f"\r{done}/{captions}", end="", file=sys.stderr, flush=True)

    pipeline = TextToVideo.from_bundle(bundle or BUILTIN, device="cpu")
    scores = score_pipeline(pipeline, RECIPE.world, captions, seed, report)
    print(file=sys.stderr)
    typer.echo(json.dumps(asdict(scores)) if as_json else scores.table())


@app.command()
def strip(
    output: Annotated[Path, typer.Argument(help="The PNG to write.")],
    prompts: Annotated[list[str], typer.Argument(help="One row of frames a prompt.")],
    bundle: Annotated[Path | None, typer.Option(help="A bundle, else the built-in one.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every video.")] = 7,
) -> None:
    """Picture the frames of several prompts, a row each."""
    from hummingbird_edge.distill.strip import write_strips
    from hummingbird_edge.runtime.bundle import BUILTIN
    from hummingbird_edge.runtime.text_to_video import TextToVideo

    pipeline = TextToVideo.from_bundle(bundle or BUILTIN, device="cpu")
    write_strips(output, [pipeline(prompt, seed=seed).frames for prompt in prompts])
    typer.echo(output)


def _require(path: Path, command: str) -> None:
    if not path.is_file():
        raise RequestError(f"{path} is not there: run {command} {path.parent} first")


def main() -> None:
    """Run the command; the entry point of `hb-distill`."""
    run_command(app, "hb-distill")
