"""Measure how far each engine and precision is from PyTorch float32 over all steps of a video.

    python benchmarks/agreement.py                               random weights, built-in layout
    python benchmarks/agreement.py CHECKPOINT                    the built-in model's checkpoint
    python benchmarks/agreement.py CHECKPOINT --bundle BUNDLE

Text encoder and U-Net run in PyTorch eager float32 under the runtime's sampler with the bundle's
noise, once a prompt; then the pipeline of `hb-run` makes the same latents on every working device,
the U-Net in every precision that device and bundle have. The figures are signal-to-noise ratios of
the last latents. A device that fails is a row with its reason.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.backends import working_backends
from hummingbird_edge.benchmarks.lib.model_under_test import random_copy
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import row_table
from hummingbird_edge.quantize.trajectory import sample_latents
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.trial import snr_db
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROMPTS = (
    "a penguin waddling in the snow",
    "a large dolphin leaping in an arc, out at sea",
    "a small owl moving up on a white background",
    "a yellow car on a street",
)

Latents = NDArray[np.float32]
_MAX_DB = 200.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def pytorch_sampler(bundle: Bundle, checkpoint: str | None) -> Callable[[Request], Latents]:
    """Return a function that makes a request's latents (1, C, T, h, w) in PyTorch.

    Raises CheckpointError for a file that is not the model's checkpoint.
    """
    from hummingbird_edge.benchmarks.lib.eager import config_of, eager_network
    from hummingbird_edge.export.checkpoint import read_checkpoint
    from hummingbird_edge.export.weights import CheckpointWeights, RandomWeights
    from hummingbird_edge.quantize.storage import round_to_float16

    weights = CheckpointWeights(read_checkpoint(checkpoint)) if checkpoint else RandomWeights()
    modules = [weights.load(name, config_of(bundle)).eval() for name in ("text_encoder", "unet")]
    manifest = bundle.manifest
    if manifest.stage("unet").variants[0].storage == "float16":
        for module in modules:
            round_to_float16(module)
    text_encoder, unet = (eager_network(module) for module in modules)
    tokenizer = bundle.tokenizer()

    def sample(request: Request) -> Latents:
        texts = (request.prompt, "")
        contexts = {text: text_encoder({"input_ids": tokenizer(text).ids[None]}) for text in texts}
        return sample_latents(request, manifest, unet, contexts)

    return sample


def compare(bundle: Bundle, backend: Backend, references: dict[Request, Latents]) -> Row:
    """Return the agreement of a backend's latents with PyTorch's, one figure a prompt."""
    ratios = list[float]()
    try:
        pipeline = TextToVideo.from_bundle(
            bundle, device=backend.device.name, precision=f"unet={backend.precision}"
        )
        for request, reference in references.items():
            latents = last_latents(pipeline, request)
            ratios.append(round(min(snr_db(latents, reference), _MAX_DB), 1))
    except HummingbirdError as error:
        return Row(str(backend), failure=str(error))
    return Row(str(backend), {"agreement_db": tuple(ratios)})


def last_latents(pipeline: TextToVideo, request: Request) -> Latents:
    """Return the latents (1, C, T, h, w) of the last step; the decoder does not run."""
    for progress in pipeline.generate(request):
        if progress.denoised is not None and progress.index == progress.count:
            return progress.denoised
    raise AssertionError("every video has a last step")


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        agreement = row["agreement_db"]
        return [f"{agreement.min:.1f}", f"{agreement.median:.1f}", str(agreement.count)]

    return row_table(["lowest, dB", "median, dB", "prompts"], rows, cells)


def draw_agreement(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row."""
    done = [row for row in rows if not row.failure][::-1]
    axes.barh([row.name for row in done], [row["agreement_db"].min for row in done])
    axes.set_xlabel("dB against PyTorch float32, lowest of the prompts")


def measure(model: Bundle, checkpoint: str | None, output: Path) -> ResultsWriter:
    """Measure every backend of the U-Net against PyTorch."""
    requests = [
        Request.for_model(model.manifest, prompt, seed) for seed, prompt in enumerate(PROMPTS)
    ]
    sample = pytorch_sampler(model, checkpoint)
    references = {request: sample(request) for request in requests}
    writer = ResultsWriter("agreement", model, output)
    for backend in working_backends("unet", model.manifest.stage("unet").precisions):
        writer.add(compare(model, backend, references))
    return writer


@app.command()
def main(
    checkpoint: Annotated[
        str | None, typer.Argument(help="The checkpoint of BUNDLE; default: random weights.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Built from CHECKPOINT, else of this layout; default: the built-in one."),
    ] = None,
    output: Output = Path("agreement.json"),
) -> None:
    """Measure how far each engine and precision is from PyTorch."""
    require_modules("benchmark", "matplotlib", "torch")
    require_output(output)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        layout = bundle or BUILTIN
        path = layout if checkpoint else random_copy(layout, Path(folder))
        writer = measure(Bundle.open(path), checkpoint, output)
    rows = writer.rows
    writer.publish(rows, table(rows), lambda axes: draw_agreement(axes, rows))


if __name__ == "__main__":
    run_command(app, "agreement.py", PARTIAL_RESULTS)
