"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hummingbird_edge.distill.worlds import require_world
from hummingbird_edge.runtime.errors import RequestError

__all__ = [
    "AsJson",
    "Batch",
    "BundleFolder",
    "BundleOption",
    "Captions",
    "ClipsFile",
    "JudgeOption",
    "RunFolder",
    "Seed",
    "Steps",
    "Student",
    "Teacher",
    "WorldOption",
    "given_for_cartoons",
]

RunFolder = Annotated[Path, typer.Argument(help="The run's folder: logs, checkpoints, models.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes weights, data and noise.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Total steps, if not the recipe's.")]
Teacher = Annotated[Path | None, typer.Option(help="Another teacher: a folder or checkpoint.")]
Student = Annotated[Path | None, typer.Option(help="Another student to start from.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Clips per step and process.")]
ClipsFile = Annotated[Path | None, typer.Option(help="Clips encoded by hb-distill clips.")]
Captions = Annotated[int, typer.Option(min=1, help="Number of held-out captions to judge.")]
BundleFolder = Annotated[Path | None, typer.Argument(help="A bundle, else the built-in one.")]
BundleOption = Annotated[Path | None, typer.Option("--bundle", help="Else the built-in one.")]
WorldOption = Annotated[str, typer.Option("--world", help="cartoons, or shapes.")]
JudgeOption = Annotated[
    Path | None,
    typer.Option(
        "--judge",
        help="Cartoons: a run that trained a judge, or weights of --pack; "
        "else that of the built-in model.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def given_for_cartoons(world: str, **options: Any) -> dict[str, Any]:
    """Return the options of the cartoons that are not None.

    Raises RequestError where one was given for another world, or there is no such world.
    """
    require_world(world)
    given = {name: value for name, value in options.items() if value is not None}
    if given and world != "cartoons":
        raise RequestError(f"--{next(iter(given))} is for --world cartoons: leave it out")
    return given
