"""How far each engine and precision is from PyTorch float32 over all steps of a video.

    python benchmarks/agreement.py                               random weights, built-in layout
    python benchmarks/agreement.py CHECKPOINT                    what the built-in model is built of
    python benchmarks/agreement.py CHECKPOINT --bundle BUNDLE

Text encoder and U-Net run in PyTorch eager float32 with the bundle's sampler and noise, once a
prompt; then the pipeline of `hb-run` makes the same latents on every device that works here, the
U-Net in every precision that device and bundle have. The figures are signal-to-noise ratios of the
last latents. A device that fails is a row with its reason.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.engines import backends_here
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.subject import random_copy
from hummingbird_edge.benchmarks.lib.table import by_row
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement.trial import snr_db
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.sampler import guidance_embedding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROMPTS = (
    "a red circle moving right",
    "a large blue square spinning",
    "a small green cross moving up on white",
    "a yellow triangle standing still",
)

Latents = NDArray[np.float32]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def pytorch_latents(bundle: Bundle, checkpoint: str | None) -> Callable[[Request], Latents]:
    """Return a function that makes a request's latents (1, C, T, h, w) in PyTorch.

    Raises CheckpointError for a file that is none of the model's, RequestError for a bundle that is
    guided by a second pass.
    """
    import torch

    from hummingbird_edge.benchmarks.lib.eager import config_of
    from hummingbird_edge.export.checkpoint import read_checkpoint
    from hummingbird_edge.export.weights import CheckpointWeights, RandomWeights
    from hummingbird_edge.quantize.storage import round_to_float16

    weights = CheckpointWeights(read_checkpoint(checkpoint)) if checkpoint else RandomWeights()
    text, unet = (weights.load(name, config_of(bundle)).eval() for name in ("text_encoder", "unet"))
    if bundle.manifest.stage("unet").variants[0].storage == "float16":
        round_to_float16(text)
        round_to_float16(unet)
    tokens = TextToVideo(bundle, device="cpu").tokenizer
    guidance_width = bundle.manifest.model.guidance_width
    if guidance_width is None:
        raise RequestError(f"{bundle.manifest.name} has no guidance embedding: give another bundle")

    def make(request: Request) -> Latents:
        shape = request.latent_shape(bundle.manifest)
        x_t = gaussian_noise(shape, request.seed, 0)
        denoised = x_t
        with torch.inference_mode():
            context = text(torch.from_numpy(tokens(request.prompt).ids[None]))
            for step in bundle.manifest.sampler.steps(request.steps):
                output = unet(
                    torch.from_numpy(x_t),
                    torch.tensor([step.t]),
                    context,
                    torch.from_numpy(guidance_embedding(request.guidance, guidance_width)),
                    torch.tensor([request.fps]),
                )
                noise = gaussian_noise(shape, request.seed, 1 + step.index)
                x_t, denoised = step(x_t, output.numpy(), noise)
        return denoised

    return make


def compare(bundle: Bundle, backend: Backend, truths: dict[Request, Latents]) -> Row:
    """Return how near a device's latents are to those of PyTorch, a figure a prompt."""
    ratios = list[float]()
    try:
        pipeline = TextToVideo(
            bundle, device=backend.device.name, precision=f"unet={backend.precision}"
        )
        for request, truth in truths.items():
            latents = last_latents(pipeline, request)
            ratios.append(round(min(snr_db(latents, truth), 200.0), 1))
    except HummingbirdError as error:
        return Row(str(backend), failure=str(error))
    return Row(str(backend), {"agreement_db": tuple(ratios)})


def last_latents(pipeline: TextToVideo, request: Request) -> Latents:
    """Return the latents (1, C, T, h, w) of the last step; what comes after is not run."""
    for progress in pipeline.generate(request):
        if progress.denoised is not None and progress.index == progress.count:
            return progress.denoised
    raise AssertionError("every video has a last step")


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        near = row["agreement_db"]
        return [f"{near.least:.1f}", f"{near.median:.1f}", str(near.count)]

    return by_row(["worst, dB", "median, dB", "prompts"], rows, cells)


def draw_agreement(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row."""
    done = [row for row in rows if not row.failure][::-1]
    axes.barh([row.name for row in done], [row["agreement_db"].least for row in done])
    axes.set_xlabel("dB against PyTorch float32, worst prompt")


@app.command()
def main(
    checkpoint: Annotated[
        str | None, typer.Argument(help="What BUNDLE was built from; else random weights.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Built from CHECKPOINT; else the built-in one.")
    ] = None,
    output: Output = Path("agreement.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib", "torch")
    if checkpoint is None and bundle is not None:
        raise RequestError("--bundle needs the CHECKPOINT it was built from: give that too")
    require_output(output)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        subject = Bundle.open(
            (bundle or BUILTIN) if checkpoint else random_copy(BUILTIN, Path(folder))
        )
        requests = [
            Request.for_model(subject.manifest, prompt, seed) for seed, prompt in enumerate(PROMPTS)
        ]
        make = pytorch_latents(subject, checkpoint)
        truths = {request: make(request) for request in requests}
        ledger = Ledger("agreement", subject, output)
        for backend in backends_here("unet", subject.manifest.stage("unet").precisions):
            ledger.add(compare(subject, backend, truths))
    ledger.publish(ledger.rows, table(ledger.rows), lambda axes: draw_agreement(axes, ledger.rows))


if __name__ == "__main__":
    run_command(app, "agreement.py", KEPT)
