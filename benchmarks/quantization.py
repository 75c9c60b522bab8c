"""Measure what quantization costs in quality and brings in speed, on the built-in model or another.

    python benchmarks/quantization.py
    python benchmarks/quantization.py --quick
    python benchmarks/quantization.py tests/data/shapes --world shapes

Quantizers calibrate on captions that no row is judged on. Each row makes the same videos from the
same seeds: float32, this project's float16 and int8, NNCF's and ONNX Runtime's quantizers with
their defaults and the same calibration data. PSNR and SSIM are of the frames against float32; this
project's rows are also judged: the share of `--captions` videos that are right in `all` that
`hb-distill score` counts. A tool that is not installed is a row that says so. At full size,
`peers.py` and `headline.py` time the bundles of `hb-export quantize`.
"""

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.options import BundleArgument, Output
from hummingbird_edge.benchmarks.lib.quantizers import nncf_networks, onnxruntime_networks
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.recording import Inputs, Network, record_inputs
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.subprocess_runner import error_summary
from hummingbird_edge.benchmarks.lib.table import format_number, row_table
from hummingbird_edge.distill.worlds import BUILTIN_WORLD, bundle_of, evaluation_of
from hummingbird_edge.quantize.trajectory import decode_frames, encode, sample_latents, trajectories
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_stage
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import to_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Frames = NDArray[np.uint8]
Networks = Sequence[Network]
"""U-Net and decoder."""
STAGES = ("unet", "vae_decoder")
_FIRST_SEED, _CAPTION_SEED = 10_000, 11
_MAX_FAILURE = 120
_QUICK_TRAJECTORIES = 4
"""As `hb-export build`."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Evaluation:
    """The videos that every row makes, and their references in float32."""

    def __init__(
        self, bundle: Bundle, world: str, calibration: int, videos: int, captions: int
    ) -> None:
        """Draw held-out captions of the world; make the references.

        The first `calibration` captions calibrate, `videos` after them are compared with float32,
        `captions` after them are judged.
        """
        from hummingbird_edge.distill.evaluation import require_known_words

        self.bundle, self.world = bundle, evaluation_of(world)
        self.videos, self.captions = videos, captions
        pairs = self.world.sample(calibration + max(videos, captions), _CAPTION_SEED)
        texts = [caption for _, caption in pairs]
        require_known_words(bundle, texts)
        self.calibration_prompts = texts[:calibration]
        self.targets = [target for target, _ in pairs[calibration:]]
        self.contexts = encode(bundle, texts)
        self.requests = [
            Request.for_model(bundle.manifest, prompt, _FIRST_SEED + index)
            for index, prompt in enumerate(texts[calibration:])
        ]
        self.references = self.make(self.load(bundle, "cpu", "fp32"))[0]

    def load(self, bundle: Bundle, device: str, precision: str) -> Networks:
        """Return the networks of a bundle, loaded as the runtime loads them."""
        backend = Backend.parse(device, precision)
        frames, height, width = self.requests[0].latent_shape(bundle.manifest)[2:]
        sizes = {"height": height, "width": width}
        return [
            open_stage(
                bundle, stage, backend, {**sizes, "frames": frames if stage == "unet" else 1}
            ).run
            for stage in STAGES
        ]

    def make(
        self, networks: Networks, count: int | None = None
    ) -> tuple[list[Frames], tuple[float, ...]]:
        """Return the videos, and the seconds of each one's U-Net steps and decoding."""
        unet, decoder = networks
        manifest, made, seconds = self.bundle.manifest, list[Frames](), list[float]()
        for request in self.requests[:count]:
            started = time.perf_counter()
            latents = sample_latents(request, manifest, unet, self.contexts)
            pixels = decode_frames(latents, manifest, decoder)
            seconds.append(time.perf_counter() - started)
            made.append(to_pixels(pixels))
        return made, tuple(seconds)

    def row(self, name: str, load: Callable[[], Networks], is_judged: bool) -> Row:
        """Evaluate the networks that `load` returns; where it fails, return a row that says why."""
        from hummingbird_edge.quantize.quality import compare

        try:
            made, seconds = self.make(load(), None if is_judged else self.videos)
        except Exception as error:  # other projects' quantizers raise any class
            reason = re.sub(r"[^\s(]*/", "", error_summary(error))  # without folders
            return Row(name, failure=reason[:_MAX_FAILURE])
        quality = compare(made[: self.videos], self.references[: self.videos])
        measures = {"psnr_db": quality.psnr_db, "ssim": quality.ssim, "video_s": seconds}
        return Row(name, measures | ({"all_right": (self.accuracy(made),)} if is_judged else {}))

    def reference_row(self) -> Row:
        """Evaluate float32."""
        seconds = self.make(self.load(self.bundle, "cpu", "fp32"), self.videos)[1]
        accuracy = self.accuracy(self.references)
        return Row("float32, cpu", {"all_right": (accuracy,), "video_s": seconds})

    def accuracy(self, made: list[Frames]) -> float:
        """Return the share of videos that are right."""
        count = self.captions
        return self.world.score(np.stack(made[:count]), self.targets[:count]).accuracy["all"]

    def calibration_inputs(self) -> dict[str, list[Inputs]]:
        """Return by stage the inputs of the trajectories that this project calibrates on."""
        recorded: dict[str, list[Inputs]] = {stage: [] for stage in STAGES}
        networks = zip(STAGES, self.load(self.bundle, "cpu", "fp32"), strict=True)
        unet, decoder = (record_inputs(network, recorded[stage]) for stage, network in networks)
        for request in trajectories(self.bundle, self.calibration_prompts, 0, {}):
            latents = sample_latents(request, self.bundle.manifest, unet, self.contexts)
            decode_frames(latents, self.bundle.manifest, decoder)
        return recorded


def quantize_here(evaluation: Evaluation, folder: Path, quick: bool = False) -> Bundle:
    """Return the bundle with this project's float16 and int8 graphs, written into `folder`.

    `quick` calibrates as `hb-export build` does.
    """
    from hummingbird_edge.quantize import quantize_bundle

    prompts = evaluation.calibration_prompts
    prompts = prompts[:_QUICK_TRAJECTORIES] if quick else prompts
    quantize_bundle(
        evaluation.bundle.folder,
        folder,
        precision="fp32+fp16+int8",
        prompts=prompts,
        quick=quick,
        calibration=len(prompts),
        held_out=0,
    )
    return Bundle.open(folder)


def measure(evaluation: Evaluation, writer: ResultsWriter, folder: Path) -> None:
    """Quantize the float32 model by every quantizer, and evaluate each."""
    bundle, ours = evaluation.bundle, quantize_here(evaluation, folder / "ours")
    quickly = quantize_here(evaluation, folder / "quick", quick=True)
    inputs = evaluation.calibration_inputs()
    writer.add(evaluation.reference_row())
    for name, made, device, precision in (
        ("float16", ours, "cpu", "fp16"),
        ("int8", ours, "cpu", "int8"),
        ("int8", ours, "openvino", "int8"),
        ("int8, calibrated quickly", quickly, "openvino", "int8"),
    ):
        load = partial(evaluation.load, made, device, precision)
        writer.add(evaluation.row(f"{name}, {device}", load, is_judged=True))
    for name, for_transformers in {"defaults": False, "for transformers": True}.items():
        nncf = partial(nncf_networks, bundle, inputs, for_transformers)
        writer.add(evaluation.row(f"NNCF, {name}, openvino", nncf, is_judged=False))
    products: dict[str, Any] = {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]}
    for name, options in {"defaults": {}, "products only": products}.items():
        static = partial(onnxruntime_networks, bundle, inputs, folder, **options)
        writer.add(evaluation.row(f"ONNX Runtime, {name}, cpu", static, is_judged=False))


def table(rows: list[Row], videos: int, captions: int) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        quality, video = ["", "", ""], row["video_s"]
        if "psnr_db" in row.measures:
            psnr = row["psnr_db"]
            quality = [f"{psnr.median:.1f}", f"{psnr.min:.1f}", f"{row.median('ssim'):.4f}"]
        accuracy = format_number(100 * row.median("all_right"), "{:.2f} %")
        return [*quality, accuracy, f"{video.median:.3f}", f"{video.p95:.3f}"]

    header = [f"median PSNR of {videos}, dB", "lowest", "SSIM", f"all correct, of {captions}"]
    return row_table([*header, "a video, s", "p95, s"], rows, cells)


def draw_psnr(axes: "Axes", rows: list[Row]) -> None:
    """Draw a bar a row that is compared with float32."""
    compared = [row for row in rows if "psnr_db" in row.measures]
    stacked_bars(axes, compared, ["psnr_db"], ["PSNR"], "dB against float32, medians")


@app.command()
def main(
    bundle: BundleArgument = None,
    world: Annotated[str, typer.Option(help="The model's: cartoons, or shapes.")] = BUILTIN_WORLD,
    calibration: Annotated[int, typer.Option(min=1, help="Captions to calibrate on.")] = 16,
    videos: Annotated[int, typer.Option(min=1, help="Videos to compare.")] = 64,
    captions: Annotated[int, typer.Option(min=1, help="Videos to judge.")] = 400,
    quick: Annotated[
        bool, typer.Option("--quick", help="2 captions to calibrate on, 4 videos: two minutes.")
    ] = False,
    output: Output = Path("quantization.json"),
) -> None:
    """Measure what quantization costs in quality and brings in speed."""
    needed = ("matplotlib", "onnx_ir", "openvino", "skimage", "torch", "accelerate")
    require_modules("benchmark,distill", *needed)
    require_output(output)
    if quick:
        calibration, videos, captions = 2, 4, 4
    source = Bundle.open(bundle_of(world, bundle))
    evaluation = Evaluation(source, world, calibration, videos, captions)
    writer = ResultsWriter("quantization", evaluation.bundle, output)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        measure(evaluation, writer, Path(folder))
    rows = writer.rows
    writer.publish(rows, table(rows, videos, captions), lambda axes: draw_psnr(axes, rows))


if __name__ == "__main__":
    run_command(app, "quantization.py", PARTIAL_RESULTS)
