"""Commands for videos: curate them, encode them, teach a student their style."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hummingbird_edge.distill.commands.options import (
    RunFolder,
    Seed,
)
from hummingbird_edge.distill.commands.progress import show_progress
from hummingbird_edge.runtime.command import require_modules
from hummingbird_edge.runtime.errors import RequestError

if TYPE_CHECKING:
    from hummingbird_edge.distill.curation.pipeline import Runner

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
    """Encode clips once for every stage: of moving shapes, or of your own videos."""
    from hummingbird_edge.distill.recipe import SHAPES_RECIPE
    from hummingbird_edge.distill.stages.clips import draw_clips, encode_curated
    from hummingbird_edge.distill.stages.sources import Sources
    from hummingbird_edge.runtime.request import parse_size

    if videos is not None:
        found = encode_curated(run, videos, model, frames, parse_size(size), show_progress)
        typer.echo(found)
    elif model is not None or frames is not None or size is not None:
        raise RequestError("--model, --frames and --size are for --videos: give that too")
    else:
        draw_clips(Sources(run), SHAPES_RECIPE, seed)


def curate(
    videos: Annotated[str, typer.Argument(help="Videos with NAME.txt or metadata.jsonl; or URL.")],
    output: Annotated[str, typer.Argument(help="Where clips.parquet, kept.jsonl go; or a URL.")],
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible URL that rewrites captions.")
    ] = None,
    endpoint_model: Annotated[str, typer.Option(help="The endpoint's model.")] = "default",
    min_quality: Annotated[float, typer.Option(help="Lowest quality kept, 0 to 1.")] = 0.35,
    min_smoothness: Annotated[float, typer.Option(help="Lowest smoothness kept, 0 to 1.")] = 0.5,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="Measure all clips, drop none.")
    ] = False,
    pack: Annotated[
        bool, typer.Option("--pack", help="Write the kept clips to OUTPUT/shards/*.tar too.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, if not one a core.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Examine on a Ray cluster: HOST:PORT, auto or local.")
    ] = None,
) -> None:
    """Filter captioned videos and enrich the captions; lists what was dropped."""
    require_modules("distill", "cv2", "scenedetect", "pyarrow", "fsspec")
    from hummingbird_edge.distill.curation.curate import curate_folder, score_folder
    from hummingbird_edge.distill.curation.enrich import ChatEnricher, TemplateEnricher
    from hummingbird_edge.distill.curation.filters import Thresholds

    enricher = ChatEnricher(endpoint, endpoint_model) if endpoint else TemplateEnricher()
    runner = _runner(workers, ray)
    if score_only:
        typer.echo(score_folder(videos, output, show_progress, runner).measures())
    else:
        limits = Thresholds(min_quality, min_smoothness)
        found = curate_folder(videos, output, enricher, limits, show_progress, runner, pack)
        typer.echo(found.table())


def _runner(workers: int | None, ray: str | None) -> "Runner":
    from hummingbird_edge.distill.curation.cluster import OnRay
    from hummingbird_edge.distill.curation.pipeline import Here
    from hummingbird_edge.runtime.devices.cpu import usable_cores

    if ray is None:
        return Here(workers or usable_cores())
    if workers is not None:
        raise RequestError("--workers is for this machine, --ray has workers of its own")
    require_modules("cluster", "ray", "pandas")
    return OnRay.connect(ray)


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
