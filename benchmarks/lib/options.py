"""Options that several of the scripts take, each written once."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["BundleArgument", "Frames", "FullSize", "Output", "Quantized", "Size"]

BundleArgument = Annotated[Path | None, typer.Argument(help="Else the built-in one.")]
FullSize = Annotated[
    Path | None, typer.Option(help="A folder for the published size, random weights.")
]
Quantized = Annotated[
    Path | None, typer.Option(help="What hb-export quantize made of that, for int8 rows.")
]
Frames = Annotated[int | None, typer.Option(help="Else the model's default.")]
Size = Annotated[str | None, typer.Option(help="As 512x320.")]
Output = Annotated[Path, typer.Option(help="JSON; .md and .png beside.")]
