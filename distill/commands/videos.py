"""Commands for videos: curate them, encode them, teach a student their style."""

from pathlib import Path
from typing import Annotated

import typer

from hummingbird_edge.distill.commands.options import (
    RunFolder,
    Seed,
)
from hummingbird_edge.distill.commands.progress import show_progress
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["clips", "curate", "lora"]


def clips(
    run: RunFolder,
    videos: Annotated[
        Path | None, typer.Option(help="Encode the videos that hb-distill curate kept there.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Whose VAE encodes the videos, if not the run's teacher.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames per clip, if not the model's.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, if not the model's.")] = None,
    seed: Seed = 0,
) -> None:
    """Encode clips once for every stage: the world's, or videos of your own."""
    from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
    from hummingbird_edge.distill.stages.clips import draw_clips, encode_curated
    from hummingbird_edge.distill.stages.sources import Sources
    from hummingbird_edge.runtime.request import parse_size

    if videos is not None:
        found = encode_curated(run, videos, model, frames, parse_size(size), show_progress)
        typer.echo(found)
    elif model is not None or frames is not None or size is not None:
        raise RequestError("--model, --frames and --size are for --videos: give that too")
    else:
        draw_clips(Sources(run), BUILTIN_RECIPE, seed)


def curate(
    videos: Annotated[Path, typer.Argument(help="Videos with NAME.txt or metadata.jsonl.")],
    output: Annotated[Path, typer.Argument(help="Where kept.jsonl and dropped.json go.")],
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible URL that rewrites captions.")
    ] = None,
    endpoint_model: Annotated[str, typer.Option(help="The endpoint's model.")] = "default",
    min_quality: Annotated[float, typer.Option(help="Lowest quality kept, 0 to 1.")] = 0.2,
    min_smoothness: Annotated[float, typer.Option(help="Lowest smoothness kept, 0 to 1.")] = 0.5,
) -> None:
    """Filter a folder of captioned videos and enrich the captions; lists what was dropped."""
    from hummingbird_edge.distill.data.curate import Thresholds, curate_folder
    from hummingbird_edge.distill.data.enrich import ChatEnricher, TemplateEnricher

    enricher = ChatEnricher(endpoint, endpoint_model) if endpoint else TemplateEnricher()
    thresholds = Thresholds(min_quality, min_smoothness)
    typer.echo(curate_folder(videos, output, enricher, thresholds, show_progress).table())


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
