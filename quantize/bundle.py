"""Quantize a bundle: int8 with calibration, float16, or both, from one in float32."""

import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from hummingbird_edge.kernels.variant import GRAPH, VARIANTS, count_fused, save_variant
from hummingbird_edge.quantize.bundle_folder import files_of, new_bundle, require_free
from hummingbird_edge.quantize.calibration import PROMPTS, Calibration, calibrate
from hummingbird_edge.quantize.evaluation import Evaluation, Frames
from hummingbird_edge.quantize.half import to_float16
from hummingbird_edge.quantize.layers import find_layers
from hummingbird_edge.quantize.peaks import Peaks
from hummingbird_edge.quantize.precision import graphs_for
from hummingbird_edge.quantize.quality import Quality
from hummingbird_edge.quantize.report import Accuracy, LayerRow, Report
from hummingbird_edge.quantize.search import Choice, search
from hummingbird_edge.quantize.static import quantize
from hummingbird_edge.quantize.trajectory import encode, note_unknown, trajectories
from hummingbird_edge.quantize.weight_only import quantize_weights
from hummingbird_edge.quantize.weight_store import WeightStore, compact
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import MANIFEST, Manifest
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.resident import return_freed
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import write_json
from hummingbird_edge.runtime.prompts import read_prompts
from hummingbird_edge.runtime.request import Request

__all__ = ["Judge", "QuantizationPlan", "quantize_bundle"]

INT8, HALF_DATA = "int8.onnx", "float16.onnx_data"
_CALIBRATED = ("unet", "vae_decoder")
_QUICK_FRAMES = 4
_QUICK_MARGIN = 1.1
"""Around the ranges of four videos: more helps small pictures, whose four show less of what
others reach, and costs large ones resolution (docs/quantization.md)."""
_QUICK_DECODED = 2
"""Of the frames of a held-out video every so many are compared."""
_HALVES = ("vae_decoder_head", "vae_decoder_tail")


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """What `quantize_bundle` does, and on which videos."""

    precisions: Mapping[str, tuple[str, ...]]
    """Of the graphs that `text_encoder`, `unet` and `vae_decoder` get: `float32`, `float16`,
    `int8`."""
    prompts: Sequence[str]
    """For calibration first, then those held out."""
    calibration: int = 4
    """How many trajectories to calibrate on."""
    held_out: int = 4
    """How many videos to compare with float32; with none there is no search."""
    min_psnr_db: float = 36.0
    """Of these videos' median."""
    size: Mapping[str, int | None] = field(default_factory=dict)
    """`frames`, `width`, `height`; what is missing or None is the bundle's default."""
    seed: int = 0
    is_quick: bool = False
    """Whether to take the ranges alone: all layers are quantized, none is measured by itself."""

    @property
    def halved(self) -> list[str]:
        """Stages that get float16 graphs."""
        return [stage for stage, graphs in self.precisions.items() if "float16" in graphs]

    def __post_init__(self) -> None:
        if self.calibration < 1 or self.held_out < 0 or self.seed < 0:
            raise RequestError(
                f"{self.calibration} trajectories, {self.held_out} held out, seed {self.seed}: "
                f"give 1 or more trajectories, 0 or more of the others"
            )
        if not math.isfinite(self.min_psnr_db):
            raise RequestError(f"--min-psnr is {self.min_psnr_db}: give a number of decibels")

    @property
    def calibrated(self) -> list[str]:
        """Stages whose activations are quantized."""
        return [stage for stage in _CALIBRATED if "int8" in self.precisions[stage]]

    @property
    def observed(self) -> list[str]:
        """Stages whose activations matter: their ranges for int8, their peaks for float16."""
        return [s for s in _CALIBRATED if s in self.calibrated or s in self.halved]


@dataclass(frozen=True, slots=True)
class Judge:
    """Counts the videos that show what their prompts ask for."""

    requests: Sequence[Request]
    """A video to be made each."""
    accuracy: Callable[[Sequence[Frames]], float]
    """Of the requests' videos, (T, H, W, 3) uint8 each: the share that is right."""


def quantize_bundle(
    bundle: str | Path,
    out: str | Path,
    *,
    precision: str = "int8",
    prompts: Sequence[str] | None = None,
    quick: bool = False,
    calibration: int = 4,
    held_out: int | None = None,
    min_psnr: float = 36.0,
    frames: int | None = None,
    width: int | None = None,
    height: int | None = None,
    seed: int = 0,
    judge: Judge | None = None,
    notify: Callable[[str], None] = lambda _: None,
    force: bool = False,
) -> Path:
    """Write the bundle `out` in other precisions from the one in float32 at `bundle`; returns it.

    `precision` is `int8`, `fp16`, `fp32+int8` for both, or a list (`unet=int8,vae=fp16`). int8
    calibrates on videos of the first `calibration` (4) of `prompts` (else of those that the bundle
    carries, or of a list of the project's own), with `frames`, `width` and `height` as given or
    the bundle's defaults, and noise from `seed` on; layers stay in float32 until the median PSNR of
    `held_out` (4) other videos is `min_psnr` dB. `quick` calibrates on videos of 4 frames and
    quantizes all layers without a search; `held_out` (1) videos tell the loss. `judge` measures
    accuracy before and after; `notify` receives progress messages. `force` replaces a bundle at
    `out`, which on any failure is as it was.
    Raises BundleError, RequestError or OutputError.
    """
    opened, target = Bundle.open(bundle), Path(out)
    if quick and frames is None:
        frames = min(_QUICK_FRAMES, opened.manifest.defaults.frames)
    own = opened.manifest.prompts or read_prompts(PROMPTS)
    texts = list(own if prompts is None else prompts)
    size = {"frames": frames, "width": width, "height": height}
    default_held_out = 1 if quick else 4
    plan = QuantizationPlan(
        graphs_for(precision),
        texts,
        calibration,
        default_held_out if held_out is None else held_out,
        min_psnr,
        size,
        seed,
        quick,
    )
    _require_float32(opened, plan)
    require_free(target, force)
    trajectories(opened, plan.prompts[:1], plan.seed, plan.size)  # or sizes that no video has
    with new_bundle(target) as folder:
        _copy_listed(opened, folder)
        found = _Quantization(opened, folder, plan, notify, judge).run()
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        before = _megabytes(opened.folder, plan.precisions)
        _list_variants(entries, folder, plan, found.qualities)
        after = _megabytes(folder, plan.precisions)
        found.report(opened.manifest.name, before, after).write(folder)
        entries["files"] = files_of(folder)
        write_json(folder / MANIFEST, entries)
        # What the runtime would refuse must not take the target's place.
        Manifest.read(folder)
    return target


def _copy_listed(bundle: Bundle, folder: Path) -> None:
    """Copy the files that the manifest lists; other files of the folder are not copied."""
    for name in (*bundle.manifest.files, MANIFEST):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(name), folder / name)


def _require_float32(bundle: Bundle, plan: QuantizationPlan) -> None:
    for stage in plan.precisions:
        known = bundle.manifest.stage(stage).precisions
        if known != ("float32",):
            raise RequestError(
                f"{bundle.folder} has {', '.join(known)} graphs of {stage}, not float32 alone: "
                f"quantize the bundle that it was made from"
            )


@dataclass
class _Found:
    """The result: layers, the search's choice, quality and accuracy."""

    plan: QuantizationPlan
    rows: tuple[LayerRow, ...] = ()
    choice: Choice | None = None
    qualities: Mapping[str, Quality] = field(default_factory=dict)
    """Of `video`, and with `unet` or `vae_decoder` alone quantized."""
    accuracy: Accuracy | None = None

    def report(self, name: str, before: Mapping[str, float], after: Mapping[str, float]) -> Report:
        plan = self.plan
        return Report(
            name,
            plan.precisions,
            {stage: {"before": before[stage], "after": after[stage]} for stage in before},
            plan.calibration if plan.calibrated else 0,
            plan.held_out,
            plan.min_psnr_db,
            self.choice.tried if self.choice and plan.held_out else (),
            self.qualities,
            self.accuracy,
            self.rows,
        )


class _Quantization:
    """The quantization of one bundle, in `folder`, which holds a copy of it."""

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        plan: QuantizationPlan,
        report: Callable[[str], None],
        judge: Judge | None,
    ) -> None:
        self.bundle, self.folder, self.plan = bundle, folder, plan
        self.report, self.judge = report, judge

    def run(self) -> _Found:
        found, plan = _Found(self.plan), self.plan
        prompts = self._prompts() if plan.calibrated else list(plan.prompts[:1])
        walks = trajectories(self.bundle, prompts, plan.seed, plan.size)
        calibration, contexts = Calibration(), {}
        if plan.observed:
            contexts = encode(self.bundle, prompts)
        if plan.calibrated:
            note_unknown(self.bundle, prompts, self.report)
            calibration = calibrate(
                self.bundle,
                self.folder,
                walks[: plan.calibration],
                contexts,
                plan.observed,
                self.report,
                losses=() if plan.is_quick else plan.calibrated,
                with_peaks=any(stage in _CALIBRATED for stage in plan.halved),
            )
        if plan.halved:
            self._float16(calibration.peaks)
        if "int8" in plan.precisions["text_encoder"]:
            self._text_encoder()
        if plan.calibrated:
            self._int8(calibration, walks[plan.calibration :], contexts, found)
        return found

    def _float16(self, peaks: Mapping[str, Peaks]) -> None:
        """Write a float16 graph for each float32 graph that GPUs run."""
        for stage in self.plan.halved:
            known, store = peaks.get(stage, Peaks()), WeightStore(self.folder / stage / HALF_DATA)
            for graph in _graphs_for_gpus(self.bundle.manifest, stage, not known.far):
                model = ir.load(self.folder / graph)
                plain = ir.load(self.folder / stage / GRAPH)
                kept = to_float16(model, known.with_fused(plain, model).islands(model))
                path = self.folder / _float16_of(graph)
                store.save(model, path)
                onnx.checker.check_model(str(path), full_check=False)
            self.report(
                f"{stage}: float16, {kept} nodes stay float32, {len(known.far)} write large values"
            )

    def _text_encoder(self) -> None:
        model = ir.load(self.folder / "text_encoder" / GRAPH)
        count = quantize_weights(model)
        self._save(model, "text_encoder")
        self.report(f"text_encoder: {count} weights in int8")

    def _int8(
        self,
        calibration: Calibration,
        held_out: Sequence[Request],
        contexts: Mapping[str, NDArray[np.float32]],
        found: _Found,
    ) -> None:
        """Write the int8 graphs of the stages with activations, and measure what they lose."""
        plan = self.plan
        backend = Backend.parse("cpu")
        if plan.is_quick and find_spec("openvino") is not None:
            backend = Backend.parse("openvino", "int8")  # several times as fast
        every = _QUICK_DECODED if plan.is_quick else 1
        evaluation = None
        if held_out:
            evaluation = Evaluation(self.bundle, held_out, contexts, backend, every)
        if not plan.is_quick:
            graphs = self._searched(calibration, evaluation, found)
        else:
            graphs = self._write(calibration, ())
            if backend.device.engine == "openvino":  # which has no use for the CPU's variant
                graphs = {stage: path.with_name(INT8) for stage, path in graphs.items()}
        return_freed()  # at full size gigabytes of calibration, before sessions are opened again
        if evaluation is not None:
            found.qualities = evaluation.measure_stages(
                graphs.get("unet"), graphs.get("vae_decoder")
            )
            each = ", ".join(f"{s} {q.median_db:.1f} dB" for s, q in found.qualities.items())
            self.report(f"against float32: {each}")
        if self.judge is not None:
            found.accuracy = self._judged(self.judge, graphs)

    def _searched(
        self, calibration: Calibration, evaluation: Evaluation | None, found: _Found
    ) -> dict[str, Path]:
        """Write the graphs with as few layers in float32 as the held-out videos allow."""
        rows = {f"{row.stage}/{row.name}": row for row in self._rows(calibration)}
        graphs: dict[str, Path] = {}

        def measure(keep: Collection[str]) -> float:
            graphs.update(self._write(calibration, keep))
            if evaluation is None:
                return float("inf")
            quality = evaluation.measure(graphs.get("unet"), graphs.get("vae_decoder"))
            self.report(f"{len(keep)} of {len(rows)} layers kept: {quality.median_db:.1f} dB")
            return quality.median_db

        choice = search(
            {name: row.snr_db for name, row in rows.items()},
            {name: row.work for name, row in rows.items()},
            measure,
            self.plan.min_psnr_db,
        )
        if choice.tried[-1][0] != len(choice.keep):
            self._write(calibration, choice.keep)
        if evaluation is not None:
            self.report(_chosen(choice, len(rows)))
        found.choice = choice
        found.rows = tuple(replace(row, kept=name in choice.keep) for name, row in rows.items())
        return graphs

    def _judged(self, judge: Judge, graphs: Mapping[str, Path]) -> Accuracy:
        """Measure accuracy before quantization, and after it with `graphs`."""
        contexts = encode(self.bundle, [request.prompt for request in judge.requests])
        evaluation = Evaluation(self.bundle, judge.requests, contexts)
        videos = evaluation.videos(graphs.get("unet"), graphs.get("vae_decoder"))
        before, after = judge.accuracy(evaluation.references), judge.accuracy(videos)
        self.report(f"{100 * before:.1f} % of {len(videos)} videos are right, {100 * after:.1f} %")
        return Accuracy(len(videos), before, after)

    def _prompts(self) -> list[str]:
        """Return one prompt per trajectory; held-out prompts differ if there are enough."""
        given, count = self.plan.prompts, self.plan.calibration + self.plan.held_out
        return [given[index % len(given)] for index in range(count)]

    def _rows(self, calibration: Calibration) -> list[LayerRow]:
        rows = []
        for stage, noise in calibration.noise.items():
            snr, outputs = noise.snr_db(), noise.outputs()
            for layer in find_layers(ir.load(self.folder / stage / GRAPH)):
                shape = layer.weight_shape
                work = outputs[layer.name] * math.prod(shape) / shape[layer.out_axis]
                rows.append(
                    LayerRow(stage, layer.name, layer.kind, shape, work, snr[layer.name], False)
                )
        return rows

    def _write(self, calibration: Calibration, keep: Collection[str]) -> dict[str, Path]:
        """Write the graphs with all layers but `keep` in int8; returns the CPU's by stage."""
        graphs, margin = {}, _QUICK_MARGIN if self.plan.is_quick else 1.0
        for stage in self.plan.calibrated:
            model = ir.load(self.folder / stage / GRAPH)
            ranges = replace(calibration.ranges[stage], margin=margin)
            prefix = f"{stage}/"
            quantize(model, ranges, {n.removeprefix(prefix) for n in keep if n.startswith(prefix)})
            graphs[stage] = self._save(model, stage)
        return graphs

    def _save(self, model: ir.Model, stage: str) -> Path:
        """Write a graph with its own weights file, and its variant for the CPU."""
        folder = self.folder / stage
        path = folder / INT8
        ir.save(model, path, external_data=f"{INT8}_data", size_threshold_bytes=256)
        onnx.checker.check_model(str(path), full_check=False)
        cpu = next(variant for variant in VARIANTS if "cpu" in variant.devices)
        if not (folder / cpu.file).is_file():
            return path
        kernels = count_fused(ir.load(folder / cpu.file))
        return folder / save_variant(folder, cpu, kernels, INT8)


def _graphs_for_gpus(manifest: Manifest, stage: str, with_halves: bool) -> list[str]:
    """Return the float32 graphs of a stage, and of a decoder's halves, but those for the CPU.

    The halves have other nodes, so peaks of the whole decoder do not say which of theirs are large.
    """
    names = [stage, *(_HALVES if stage == "vae_decoder" and with_halves else ())]
    return [
        variant.graph
        for name in names
        if name in manifest.stages
        for variant in manifest.stages[name].variants
        if variant.precision == "float32" and variant.devices != ("cpu",)
    ]


def _float16_of(graph: str) -> str:
    """Return the path of a graph's float16 form: `unet/dml_float16.onnx` for `unet/dml.onnx`."""
    path = PurePosixPath(graph)
    return str(path.with_name(f"{path.stem}_float16.onnx"))


def _chosen(choice: Choice, layers: int) -> str:
    """Report the choice, and what to change where it keeps most of the graph."""
    kept = len(choice.keep)
    found = f"chosen: {kept} of {layers} layers stay as they were, {choice.psnr_db:.1f} dB"
    if 2 * kept <= layers:
        return found
    return f"{found}; a larger --calibration, or a lower --min-psnr, would leave fewer"


def _list_variants(
    entries: dict[str, Any], folder: Path, plan: QuantizationPlan, qualities: Mapping[str, Quality]
) -> None:
    """List the new graphs in the manifest's `entries`, and drop those not requested."""
    for stage, precisions in plan.precisions.items():
        if "float16" in precisions:
            _list_float16(entries["stages"], stage, folder)
        variants = entries["stages"][stage]["variants"]
        if "int8" in precisions:
            new = {
                **variants[0],
                "graph": f"{stage}/{INT8}",
                "precision": "int8",
                "storage": "int8",
            }
            if stage in qualities:
                new["psnr_db"] = round(qualities[stage].median_db, 2)
            fused = f"{stage}/{Path(INT8).stem}_fused.onnx"
            own = (
                [{**new, "graph": fused, "devices": ["cpu"]}] if (folder / fused).is_file() else []
            )
            variants += [new, *own]
        if "float32" not in precisions:
            _drop_float32(entries["stages"], stage, folder)
            if stage == "text_encoder" and "int8" in precisions:
                # Its weights alone are int8: a device without int8 computes it in float32.
                entries["stages"][stage]["variants"].append({**new, "precision": "float32"})


def _list_float16(stages: dict[str, Any], stage: str, folder: Path) -> None:
    for name in [stage, *(_HALVES if stage == "vae_decoder" else ())]:
        variants = stages.get(name, {}).get("variants", [])
        for variant in list(variants):
            graph = _float16_of(variant["graph"])
            if variant["precision"] == "float32" and (folder / graph).is_file():
                variants.append({**variant, "graph": graph, "precision": "float16"})


def _drop_float32(stages: dict[str, Any], stage: str, folder: Path) -> None:
    """Remove the float32 graphs of a stage and of a decoder's halves, and unused weights."""
    for name in [stage, *(_HALVES if stage == "vae_decoder" else ())]:
        if name not in stages:
            continue
        variants = stages[name]["variants"]
        kept = [variant for variant in variants if variant["precision"] != "float32"]
        for variant in variants:
            if variant not in kept:
                (folder / variant["graph"]).unlink(missing_ok=True)
        stages[name]["variants"] = kept
        if not kept:
            del stages[name]
    compact(folder / stage)


def _megabytes(folder: Path, stages: Collection[str]) -> dict[str, float]:
    return {
        stage: sum(f.stat().st_size for f in (folder / stage).iterdir() if f.is_file()) / 1e6
        for stage in stages
    }
