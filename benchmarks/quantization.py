"""What smaller numbers cost the picture, and what they bring, on the built-in model.

    python benchmarks/quantization.py
    python benchmarks/quantization.py --quick

Calibrates on captions that no row is judged on. Each row makes the same videos from the same seeds:
float32, this project's float16 and int8, NNCF's and ONNX Runtime's quantizers with their defaults
and the same calibration data. PSNR and SSIM are of the frames against float32; how many of
`--captions` videos show all that was asked is counted for this project's rows. A tool that is not
installed is a row that says so. At full size, `peers.py` and `headline.py` time what `hb-export
quantize` makes.
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.apart import reason_of
from hummingbird_edge.benchmarks.lib.inputs import Inputs
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.table import bars, by_row, shown
from hummingbird_edge.quantize.trajectory import Run, decode, encode, trajectories, walk
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import to_pixels

if TYPE_CHECKING:
    import onnx_ir as ir
    from matplotlib.axes import Axes

Frames = NDArray[np.uint8]
FIRST_SEED = 10_000
STAGES = ("unet", "vae_decoder")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Bench:
    """The videos to be made, and the ones in float32."""

    def __init__(self, bundle: Bundle, calibration: int, videos: int, captions: int) -> None:
        self.bundle = bundle
        from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
        from hummingbird_edge.distill.score import unseen_captions

        self.world = BUILTIN_RECIPE.world
        count = calibration + max(videos, captions)
        pairs = unseen_captions(self.world, count, 11)
        self.prompts = [caption for _, caption in pairs]
        self.scenes = [scene for scene, _ in pairs[calibration:]]
        self.contexts = encode(bundle, self.prompts)
        self.plan = [
            Request.for_model(bundle.manifest, prompt, FIRST_SEED + index)
            for index, prompt in enumerate(self.prompts[calibration:])
        ]
        self.calibration, self.videos, self.captions = calibration, videos, captions
        self.references = self.make(*self.networks(self.bundle, "cpu", "fp32"))[0]

    def networks(self, bundle: Bundle, device: str, precision: str) -> tuple[Run, Run]:
        """Return U-Net and decoder of a bundle, as the runtime loads them."""
        backend = Backend.parse(device, precision)
        frames, height, width = self.plan[0].latent_shape(self.bundle.manifest)[2:]
        sizes = {"frames": frames, "height": height, "width": width}
        unet, vae = (
            open_session(
                bundle.graph(stage, backend.device.family, backend.graph),
                backend,
                {**sizes, "frames": frames if stage == "unet" else 1},
            ).run
            for stage in STAGES
        )
        return unet, vae

    def make(
        self, unet: Run, vae: Run, count: int | None = None
    ) -> tuple[list[Frames], tuple[float, ...]]:
        """Return the videos, and the seconds of each one's U-Net steps and decoding."""
        made, seconds = list[Frames](), list[float]()
        for trajectory in self.plan[:count]:
            started = time.perf_counter()
            latents = walk(trajectory, self.bundle, self.contexts, unet)
            pixels = np.concatenate(list(decode(latents, self.bundle, vae)))
            seconds.append(time.perf_counter() - started)
            made.append(to_pixels(pixels))
        return made, tuple(seconds)

    def row(self, name: str, networks: Callable[[], tuple[Run, Run]], judged: bool) -> Row:
        """Measure one way; one that fails is a row with its reason."""
        from hummingbird_edge.quantize.quality import compare

        try:
            made, seconds = self.make(*networks(), None if judged else self.videos)
        except Exception as error:  # other people's quantizers raise whatever they like
            reason = re.sub(r"[^\s(]*/", "", reason_of(error))  # folders of ours
            return Row(name, failure=reason[:120])
        quality = compare(made[: self.videos], self.references[: self.videos])
        measures = {"psnr_db": quality.psnr_db, "ssim": quality.ssim, "video_s": seconds}
        return Row(name, measures | ({"all_right": (self.accuracy(made),)} if judged else {}))

    def accuracy(self, made: list[Frames]) -> float:
        """Return the share of videos that show all that their captions say."""
        from hummingbird_edge.distill.score import score_clips

        count = self.captions
        scores = score_clips(np.stack(made[:count]), self.scenes[:count], self.world)
        return scores.accuracy["all"]

    def calibration_data(self) -> dict[str, list[Inputs]]:
        """Return what the networks read on the trajectories that ours are calibrated on."""
        seen: dict[str, list[Inputs]] = {stage: [] for stage in STAGES}
        unet, vae = self.networks(self.bundle, "cpu", "fp32")

        def watched(stage: str, run: Run) -> Run:
            def wrapped(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
                seen[stage].append({name: np.array(value) for name, value in inputs.items()})
                return run(inputs)

            return wrapped

        for trajectory in trajectories(self.bundle, self.prompts[: self.calibration], 0, {}):
            latents = walk(trajectory, self.bundle, self.contexts, watched("unet", unet))
            for _ in decode(latents, self.bundle, watched("vae_decoder", vae)):
                pass
        return seen


def nncf_networks(
    bench: Bench, data: dict[str, list[Inputs]], transformer: bool
) -> tuple[Run, Run]:
    """Quantize both by NNCF, compiled as this runtime compiles: bfloat16 for the rest."""
    import nncf
    import openvino

    nncf.set_log_level("ERROR")
    core = openvino.Core()
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}

    def network(stage: str) -> Run:
        model = core.read_model(str(bench.bundle.graph(stage)))
        model.reshape({port.any_name: data[stage][0][port.any_name].shape for port in model.inputs})
        rows = data[stage]
        small = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), **options)
        hint = Device.parse("openvino").precisions()[0]
        kind = {"bf16": openvino.Type.bf16, "fp32": openvino.Type.f32}[hint]
        compiled = core.compile_model(small, "CPU", {"INFERENCE_PRECISION_HINT": kind})
        names = [port.any_name for port in model.inputs]
        return lambda inputs: np.array(compiled({name: inputs[name] for name in names})[0])

    unet, vae = (network(stage) for stage in STAGES)
    return unet, vae


def onnxruntime_networks(
    bench: Bench, data: dict[str, list[Inputs]], folder: Path, **options: Any
) -> tuple[Run, Run]:
    """Quantize both by ONNX Runtime's quantize_static, on weights widened to float32 for it."""
    import onnx_ir as ir
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, rows: Iterator[Inputs]) -> None:
            self.rows = rows

        def get_next(self) -> Inputs | None:
            return next(self.rows, None)

    def network(stage: str) -> Run:
        names = [f"{stage}-{kind}.onnx" for kind in ("wide", "prepared", "int8")]
        wide, prepared, small = (folder / name for name in names)
        ir.save(widened(ir.load(bench.bundle.graph(stage))), wide)
        quant_pre_process(
            str(wide), str(prepared), skip_symbolic_shape=True, skip_optimization=True
        )
        inputs = {value.name for value in ir.load(prepared).graph.inputs}
        rows = ({name: row[name] for name in row if name in inputs} for row in data[stage])
        quantize_static(str(prepared), str(small), Reader(iter(rows)), **options)
        return open_session(small, Backend.parse("cpu")).run

    unet, vae = (network(stage) for stage in STAGES)
    return unet, vae


def widened(model: "ir.Model") -> "ir.Model":
    """Return `model` with its weights in the graph, those stored in float16 as float32."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    for node in list(model.graph):
        stored = node.inputs[0].const_value if node.op_type == "Cast" and node.inputs[0] else None
        if stored is None or stored.dtype != ir.DataType.FLOAT16:
            continue
        name = str(node.outputs[0].name)
        value = ir.val(name, const_value=ir.tensor(stored.numpy().astype(np.float32), name=name))
        model.graph.register_initializer(value)
        node.outputs[0].name = f"{name}_before"
        node.outputs[0].replace_all_uses_with(value)
    RemoveUnusedNodesPass()(model)
    return model


def table(rows: list[Row], videos: int, captions: int) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        figures, video = ["", "", ""], row["video_s"]
        if "psnr_db" in row.measures:
            psnr = row["psnr_db"]
            figures = [f"{psnr.median:.1f}", f"{psnr.least:.1f}", f"{row.median('ssim'):.4f}"]
        right = shown(100 * row.median("all_right"), "{:.2f} %")
        return [*figures, right, f"{video.median:.3f}", f"{video.p95:.3f}"]

    header = [f"median PSNR of {videos}, dB", "lowest", "SSIM", f"all right, of {captions}"]
    return by_row([*header, "a video, s", "p95, s"], rows, cells)


def measure(bench: Bench, ledger: Ledger, folder: Path) -> None:
    """Quantize the built-in model in every way, and measure each."""
    from hummingbird_edge.quantize import quantize_bundle

    texts = bench.prompts[: bench.calibration]
    quantize_bundle(
        bench.bundle.folder,
        folder / "ours",
        precision="fp32+fp16+int8",
        prompts=texts,
        calibration=bench.calibration,
        held_out=0,
    )
    ours, data = Bundle.open(folder / "ours"), bench.calibration_data()
    seconds = bench.make(*bench.networks(bench.bundle, "cpu", "fp32"), bench.videos)[1]
    exact = {"all_right": (bench.accuracy(bench.references),), "video_s": seconds}
    ledger.add(Row("float32, cpu", exact))

    def add(name: str, networks: Callable[[], tuple[Run, Run]], judged: bool) -> None:
        ledger.add(bench.row(name, networks, judged))

    ways = [("float16", "cpu", "fp16"), ("int8", "cpu", "int8"), ("int8", "openvino", "int8")]
    for name, device, precision in ways:
        add(f"{name}, {device}", partial(bench.networks, ours, device, precision), judged=True)
    for name, transformer in {"defaults": False, "for transformers": True}.items():
        networks = partial(nncf_networks, bench, data, transformer)
        add(f"NNCF, {name}, openvino", networks, judged=False)
    products = {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]}
    for name, chosen in {"defaults": {}, "products only": products}.items():
        static = partial(onnxruntime_networks, bench, data, folder, **chosen)
        add(f"ONNX Runtime, {name}, cpu", static, judged=False)


@app.command()
def main(
    calibration: Annotated[int, typer.Option(min=1, help="Captions to calibrate on.")] = 16,
    videos: Annotated[int, typer.Option(min=1, help="Videos to compare.")] = 64,
    captions: Annotated[int, typer.Option(min=1, help="Videos to judge.")] = 400,
    quick: Annotated[
        bool, typer.Option("--quick", help="2 captions to calibrate on, 4 videos: two minutes.")
    ] = False,
    output: Output = Path("quantization.json"),
) -> None:
    """Measure, print, write."""
    needed = ("matplotlib", "onnx_ir", "openvino", "skimage", "torch", "accelerate")
    require_modules("benchmark,distill", *needed)
    require_output(output)
    if quick:
        calibration, videos, captions = 2, 4, 4
    bench = Bench(Bundle.open(BUILTIN), calibration, videos, captions)
    ledger = Ledger("quantization", bench.bundle, output)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        measure(bench, ledger, Path(folder))

    def draw(axes: "Axes") -> None:
        judged = [row for row in ledger.rows if "psnr_db" in row.measures]
        bars(axes, judged, ["psnr_db"], ["PSNR"], "dB against float32, medians")

    ledger.publish(ledger.rows, table(ledger.rows, videos, captions), draw)


if __name__ == "__main__":
    run_command(app, "quantization.py", KEPT)
