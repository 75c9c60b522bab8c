"""What smaller numbers cost the picture, and what they bring, on the built-in model.

    python benchmarks/quantization.py
    python benchmarks/quantization.py --videos 16 --captions 32         a quick look

Calibrates on captions that no row is judged on. Each row makes the same videos from the same seeds:
float32, this project's float16 and int8, NNCF's and ONNX Runtime's quantizers with their defaults
and the same calibration data. Prints a Markdown table: PSNR and SSIM of the frames against float32,
how many of `--captions` videos show all that was asked (this project's rows), and seconds a video.
`--output` writes JSON. NNCF is left out where it is not installed (pip install nncf).

For full size: `hb-export quantize` a bundle of `benchmarks/stages.py`, then that with `--bundle`.
"""

import argparse
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hummingbird_edge.distill.recipe import BUILTIN_RECIPE
from hummingbird_edge.distill.score import score_clips, unseen_captions
from hummingbird_edge.export.precision import graphs_for
from hummingbird_edge.export.quantized import QuantizationPlan, quantize_bundle
from hummingbird_edge.quantize.quality import Quality, compare
from hummingbird_edge.quantize.trajectory import Run, decode, encode, trajectories, walk
from hummingbird_edge.runtime.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.placement import Option
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import to_pixels
from hummingbird_edge.runtime.session import open_session

Frames = NDArray[np.uint8]
Inputs = dict[str, NDArray[Any]]
CALIBRATION, FIRST_SEED = 16, 10_000
STAGES = ("unet", "vae_decoder")


@dataclass(frozen=True, slots=True)
class Row:
    """One way of running U-Net and VAE."""

    name: str
    quality: Quality | None
    """Against float32; None for float32 itself."""
    accuracy: float | None
    """Share of the captions' videos that show all that was asked, where that was counted."""
    seconds: float
    """Median of a video's U-Net steps and decoding."""
    failure: str = ""


class Bench:
    """The videos to be made, and the ones in float32."""

    def __init__(self, bundle: Bundle, videos: int, captions: int) -> None:
        self.bundle = bundle
        pairs = unseen_captions(BUILTIN_RECIPE.world, CALIBRATION + max(videos, captions), 11)
        self.prompts = [caption for _, caption in pairs]
        self.scenes = [scene for scene, _ in pairs[CALIBRATION:]]
        self.contexts = encode(bundle, self.prompts)
        self.plan = [
            Request.for_model(bundle.manifest, prompt, FIRST_SEED + index)
            for index, prompt in enumerate(self.prompts[CALIBRATION:])
        ]
        self.videos, self.captions = videos, captions
        self.references = self.make(*self.networks(self.bundle, "cpu", "fp32"))[0]

    def networks(self, bundle: Bundle, device: str, precision: str) -> tuple[Run, Run]:
        """Return U-Net and decoder of a bundle, as the runtime loads them."""
        option = Option(Device.parse(device), precision)
        frames, height, width = self.plan[0].latent_shape(self.bundle.manifest)[2:]
        sizes = {"frames": frames, "height": height, "width": width}
        unet, vae = (
            open_session(
                bundle.graph(stage, option.device.family, option.graph),
                option,
                {**sizes, "frames": frames if stage == "unet" else 1},
            ).run
            for stage in STAGES
        )
        return unet, vae

    def make(self, unet: Run, vae: Run, count: int | None = None) -> tuple[list[Frames], float]:
        """Return the videos, and the median seconds of one."""
        made, seconds = list[Frames](), list[float]()
        for trajectory in self.plan[:count]:
            started = time.perf_counter()
            latents = walk(trajectory, self.bundle, self.contexts, unet)
            pixels = np.concatenate(list(decode(latents, self.bundle, vae)))
            seconds.append(time.perf_counter() - started)
            made.append(to_pixels(pixels))
        return made, statistics.median(seconds)

    def row(self, name: str, networks: Callable[[], tuple[Run, Run]], judged: bool) -> Row:
        """Measure one way; one that fails is a row with its reason."""
        try:
            made, seconds = self.make(*networks(), None if judged else self.videos)
        except Exception as error:  # other people's quantizers raise whatever they like
            reason = re.sub(r"[^\s(]*/", "", str(error).strip().splitlines()[0])  # folders of ours
            return Row(name, None, None, 0.0, f"failed: {reason[:120]}")
        quality = compare(made[: self.videos], self.references[: self.videos])
        return Row(name, quality, self.accuracy(made) if judged else None, seconds)

    def accuracy(self, made: list[Frames]) -> float:
        """Return the share of videos that show all that their captions say."""
        count = self.captions
        scores = score_clips(np.stack(made[:count]), self.scenes[:count], BUILTIN_RECIPE.world)
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

        for trajectory in trajectories(self.bundle, self.prompts[:CALIBRATION], 0, {}):
            latents = walk(trajectory, self.bundle, self.contexts, watched("unet", unet))
            for _ in decode(latents, self.bundle, watched("vae_decoder", vae)):
                pass
        return seen


def nncf_networks(bench: Bench, data: dict[str, list[Inputs]], **options: Any) -> tuple[Run, Run]:
    """Quantize both by NNCF, compiled as this runtime compiles: bfloat16 for the rest."""
    import nncf
    import openvino

    nncf.set_log_level("ERROR")
    core = openvino.Core()

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
        return open_session(small, Option(Device.parse("cpu"))).run

    unet, vae = (network(stage) for stage in STAGES)
    return unet, vae


def widened(model: ir.Model) -> ir.Model:
    """Return `model` with its weights in the graph, those stored in float16 as float32."""
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
    lines = [
        f"| | median PSNR of {videos}, dB | lowest | SSIM | all right, of {captions} | a video |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.failure:
            lines.append(f"| {row.name} | {row.failure} | | | | |")
            continue
        q = row.quality
        figures = (
            "| | | "
            if q is None
            else (f"| {q.median_db:.1f} | {min(q.psnr_db):.1f} | {q.median_ssim:.4f} ")
        )
        right = "" if row.accuracy is None else f"{100 * row.accuracy:.1f} %"
        lines.append(f"| {row.name} {figures}| {right} | {row.seconds:.3f} s |")
    return "\n".join(lines)


def measure(bench: Bench, folder: Path) -> list[Row]:
    """Quantize the built-in model in every way, and measure each."""
    texts = bench.prompts[:CALIBRATION]
    plan = QuantizationPlan(graphs_for("fp16+int8"), texts, CALIBRATION, held_out=0)
    quantize_bundle(bench.bundle.folder, folder / "ours", plan, lambda _: None, force=False)
    ours, data = Bundle.open(folder / "ours"), bench.calibration_data()
    seconds = bench.make(*bench.networks(bench.bundle, "cpu", "fp32"), bench.videos)[1]
    rows = [Row("float32, cpu", None, bench.accuracy(bench.references), seconds)]
    has_openvino, has_nncf = find_spec("openvino"), find_spec("nncf")
    ways = [("float16", "cpu", "fp16"), ("int8", "cpu", "int8")]
    ways += [("int8", "openvino", "int8")] if has_openvino else []
    for name, device, precision in ways:
        print(f"{name}, {device}", file=sys.stderr)
        networks = partial(bench.networks, ours, device, precision)
        rows.append(bench.row(f"{name}, {device}", networks, judged=True))
    if has_openvino and has_nncf:
        import nncf

        presets = {"defaults": {}, "for transformers": {"model_type": nncf.ModelType.TRANSFORMER}}
        for name, options in presets.items():
            print(f"NNCF {name}", file=sys.stderr)
            networks = partial(nncf_networks, bench, data, **options)
            rows.append(bench.row(f"NNCF, {name}, openvino", networks, judged=False))
    print("ONNX Runtime", file=sys.stderr)
    products = {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]}
    for name, chosen in {"defaults": {}, "products only": products}.items():
        static = partial(onnxruntime_networks, bench, data, folder, **chosen)
        rows.append(bench.row(f"ONNX Runtime, {name}, cpu", static, judged=False))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=64, help="videos to compare (64)")
    parser.add_argument("--captions", type=int, default=400, help="videos to judge (400)")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    bench = Bench(Bundle.open(BUILTIN), arguments.videos, arguments.captions)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(bench, Path(folder))
    print(table(rows, arguments.videos, arguments.captions))
    if arguments.output is not None:
        known = ("onnxruntime", "openvino", "nncf", "numpy")
        facts = {
            "machine": {"cpu": platform.processor(), "cores": os.cpu_count()},
            "packages": {name: version(name) for name in known if find_spec(name)},
            "bundle_sha256": bench.bundle.digest,
            "rows": [asdict(row) for row in rows],
        }
        arguments.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
