"""Command-line options that several scripts share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["BundleArgument", "Frames", "FullSize", "Output", "Processes", "Quantized", "Size"]

BundleArgument = Annotated[
    Path | None, typer.Argument(help="The bundle to measure; default: the built-in model.")
]
FullSize = Annotated[
    Path | None, typer.Option(help="A folder for hummingbird-0.7b with random weights.")
]
Quantized = Annotated[
    Path | None, typer.Option(help="The same model by hb-export quantize, for int8 rows.")
]
Frames = Annotated[int | None, typer.Option(help="Default: the model's.")]
Size = Annotated[str | None, typer.Option(help="Such as 512x320.")]
Processes = Annotated[
    int, typer.Option(min=1, help="Processes a row; a row of a minute or more takes one.")
]
Output = Annotated[Path, typer.Option(help="A .json file; .md and .png are written too.")]
