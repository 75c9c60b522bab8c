"""Quantization: its numbers against NumPy, the calibration and the search."""

import math
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hummingbird_edge.kernels.fused_gelu import fuse_gelu
from hummingbird_edge.quantize import calibration as calibrating
from hummingbird_edge.quantize.calibration import calibrate
from hummingbird_edge.quantize.half import to_float16
from hummingbird_edge.quantize.layers import find_layers
from hummingbird_edge.quantize.peaks import Peaks, add_peaks
from hummingbird_edge.quantize.quality import compare
from hummingbird_edge.quantize.ranges import Ranges, observe
from hummingbird_edge.quantize.search import search
from hummingbird_edge.quantize.sensitivity import Noise, add_twins
from hummingbird_edge.quantize.smoothing import smoothing
from hummingbird_edge.quantize.static import quantize, quantize_weight
from hummingbird_edge.quantize.trajectory import encode, note_unknown, trajectories
from hummingbird_edge.quantize.weight_only import quantize_weights
from hummingbird_edge.quantize.weight_store import WeightStore, compact
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.external_data import external_files
from hummingbird_edge.runtime.errors import RequestError
from tests.conftest import SHAPES

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Array = NDArray[Any]
PROMPTS = [
    "a red circle moving right",
    "a blue square growing",
    "a green triangle spinning",
    "a yellow star moving up",
    "a white ring moving left",
    "a purple cross shrinking",
]
SMALL = {"frames": 2, "width": 32, "height": 32}
"""Of videos whose size decides nothing."""


def _model(tmp_path: Path, seed: int = 0) -> tuple[Path, dict[str, Array]]:
    """Write a convolution over a concatenation whose sides differ in range, then a product."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((32, 24, 3, 3), np.float32)
    v = rng.standard_normal((32, 64), np.float32)
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["joined"], "join", axis=1),
        helper.make_node("Conv", ["joined", "w", "bias"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["y"], ["rows"], "move", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["rows", "v"], ["z"], "product"),
    ]
    weights = {"w": w, "bias": rng.standard_normal(32, np.float32), "v": v}
    shapes = {"a": [1, 16, 6, 5], "b": [1, 8, 6, 5]}
    graph = helper.make_graph(
        nodes,
        "two layers",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 6, 5, 64])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    inputs = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    inputs["b"] *= 30
    return path, inputs


def _run(path: Path, inputs: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(
        onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]).run(None, inputs)
    )


def _observed(tmp_path: Path) -> tuple[Path, dict[str, Array], Ranges]:
    path, inputs = _model(tmp_path)
    model, ranges = ir.load(path), Ranges()
    names = observe(model, find_layers(model))
    ir.save(model, tmp_path / "observed.onnx")
    _, *more = _run(tmp_path / "observed.onnx", inputs)
    ranges.add(names, more)
    return path, inputs, ranges


def _conv(x: Array, w: Array) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, w))


def test_a_weight_has_a_scale_for_every_output_channel() -> None:
    w = np.random.default_rng(0).standard_normal((4, 3, 2)) * [[[1]], [[10]], [[100]], [[0]]]
    q, scale = quantize_weight(w.astype(np.float32), 0)
    assert q.dtype == np.int8
    assert scale.shape == (4,)
    assert np.abs(q).max(axis=(1, 2)).tolist() == [127, 127, 127, 0]
    assert (np.abs(q * scale[:, None, None] - w) <= scale[:, None, None] / 2 + 1e-6).all()


def test_ranges_are_those_of_every_channel(tmp_path: Path) -> None:
    _, inputs, ranges = _observed(tmp_path)
    assert set(ranges.extremes) == {"a", "b", "rows"}
    low, high = ranges.extremes["b"]
    np.testing.assert_array_equal(low, inputs["b"].min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(high, inputs["b"].max(axis=(0, 2, 3)))
    seen = np.abs(inputs["b"]).max(axis=(0, 2, 3))
    np.testing.assert_allclose(ranges.largest("b"), np.minimum(1.5 * seen, seen.max()))
    ranges.add(["b"], [np.full(8, -1e3), np.full(8, 0)])
    assert ranges.largest("b").tolist() == [1e3] * 8
    assert replace(ranges, margin=1.5).largest("b").tolist() == [1.5e3] * 8
    np.testing.assert_array_equal(ranges.extremes["b"][1], np.maximum(high, 0))


def test_quantized_layers_compute_what_the_formula_says(tmp_path: Path) -> None:
    path, inputs, ranges = _observed(tmp_path)
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    model = ir.load(path)
    assert quantize(model, ranges) == 2
    ir.save(model, tmp_path / "int8.onnx")
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("QuantizeLinear") == 3
    assert kinds.count("Conv") == 2  # a side each
    assert "Concat" not in kinds

    def side(name: str, w: Array) -> Array:
        largest = ranges.largest(name)
        t = smoothing(largest, [w.reshape(32, -1, 9)])
        t = np.ones_like(largest) if t is None else t
        scale = (largest / t).max() / 127
        q, s = quantize_weight(w * t[:, None, None], 0)
        x = np.clip(np.rint(inputs[name] / (scale * t[:, None, None])), -128, 127) * scale
        return _conv(x, q * s[:, None, None, None])

    y = side("a", weights["w"][:, :16]) + side("b", weights["w"][:, 16:])
    rows = (y + weights["bias"][:, None, None]).transpose(0, 2, 3, 1)
    v_q, v_scale = quantize_weight(weights["v"], 1)
    scale = float(ranges.largest("rows").max() / 127)
    expected = np.clip(np.rint(rows / scale), -128, 127) * scale @ (v_q * v_scale)
    found = _run(tmp_path / "int8.onnx", inputs)[0]
    # A number at the border of two steps may fall to either side.
    assert np.abs(found - expected).mean() < 2e-3 * np.abs(expected).mean()


def test_uneven_channels_lose_less_where_the_weights_take_their_range() -> None:
    rng = np.random.default_rng(0)
    width = np.geomspace(0.01, 10, 32, dtype=np.float32)
    x = rng.standard_normal((500, 32), np.float32) * width
    w = rng.standard_normal((16, 32, 1), np.float32)
    t = smoothing(np.abs(x).max(axis=0), [w])
    assert t is not None

    def snr_db(t: Array) -> float:
        scale = np.abs(x / t).max() / 127
        q, s = quantize_weight(w[:, :, 0] * t, 0)
        found = np.rint(x / (scale * t)) * scale @ (q * s[:, None]).T
        truth = x @ w[:, :, 0].T
        return float(10 * np.log10(np.square(truth).sum() / np.square(truth - found).sum()))

    assert snr_db(t) > snr_db(np.ones_like(t)) + 3
    assert smoothing(np.ones(32, np.float32), [np.ones_like(w)]) is None  # nothing to gain
    dead = smoothing(np.zeros(32, np.float32), [w])
    assert dead is None or np.isfinite(dead).all()


def test_layers_that_are_kept_stay_as_they_were(tmp_path: Path) -> None:
    path, inputs, ranges = _observed(tmp_path)
    model = ir.load(path)
    assert quantize(model, ranges, keep=["conv", "product"]) == 0
    ir.save(model, tmp_path / "kept.onnx")
    np.testing.assert_array_equal(_run(tmp_path / "kept.onnx", inputs)[0], _run(path, inputs)[0])


def test_a_layer_is_measured_with_only_it_quantized(tmp_path: Path) -> None:
    path, inputs, ranges = _observed(tmp_path)
    twins, noise = tmp_path / "twins.onnx", Noise()
    names = add_twins(ir.load(path), ranges, twins, "twins.onnx_data")
    first, *more = _run(twins, inputs)
    noise.add(names, more)
    np.testing.assert_array_equal(first, _run(path, inputs)[0])  # a twin feeds nothing
    for layer in ("conv", "product"):
        model = ir.load(path)
        other = ({"conv", "product"} - {layer}).pop()
        quantize(model, ranges, keep=[other])
        ir.save(model, tmp_path / "one.onnx")
        if layer == "product":
            truth, found = first, _run(tmp_path / "one.onnx", inputs)[0]
            snr = 10 * np.log10(np.square(truth).sum() / np.square(truth - found).sum())
            assert noise.snr_db()[layer] == pytest.approx(snr, abs=0.05)
    assert noise.outputs() == {"conv": 32 * 30, "product": 64 * 30}


def test_values_that_are_not_finite_stop_a_calibration() -> None:
    with pytest.raises(RequestError, match="at x that are not finite"):
        Ranges().add(["x"], [np.array([0.0]), np.array([np.nan])])


@pytest.mark.parametrize("needed", [0, 1, 5, 8])
def test_the_search_keeps_as_few_layers_as_do(needed: int) -> None:
    snr = {f"layer {index}": 30.0 + index for index in range(8)}
    tried: list[int] = []

    def measure(keep: Collection[str]) -> float:
        tried.append(len(keep))
        return 40.0 if len(keep) >= needed else 20.0

    choice = search(snr, dict.fromkeys(snr, 1.0), measure, 36.0)
    assert choice.keep == tuple(snr)[:needed]  # what loses most
    assert len(tried) == len(set(tried)) <= 5


def test_layers_below_the_gate_are_kept_in_any_case() -> None:
    choice = search({"good": 40.0, "bad": 12.0}, {"good": 1.0, "bad": 1e9}, lambda _: 99.0, 36.0)
    assert choice.keep == ("bad",)


def test_equal_videos_and_noisy_ones() -> None:
    video = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), np.uint8)
    same = compare([video], [video])
    assert (same.median_db, same.median_ssim) == (100.0, 1.0)
    other = video.astype(int) + np.where(np.arange(48)[:, None] % 2, 5, 0)
    off = compare([np.clip(other, 0, 255).astype(np.uint8)], [video])
    assert off.median_db == pytest.approx(10 * np.log10(255**2 / 12.5), abs=0.3)
    assert off.median_ssim < 1


def test_the_text_encoder_keeps_its_numbers(tmp_path: Path) -> None:
    source = SHAPES / "text_encoder" / "model.onnx"
    model = ir.load(source)
    layers = len(find_layers(model))
    assert quantize_weights(model) == layers + 1  # the table of tokens
    ir.save(model, tmp_path / "int8.onnx", external_data="data", size_threshold_bytes=256)
    length = Bundle.open(SHAPES).manifest.model.context_length
    ids = {"input_ids": np.arange(length, dtype=np.int64)[None]}
    truth, found = (_run(path, ids)[0] for path in (source, tmp_path / "int8.onnx"))
    assert 10 * np.log10(np.square(truth).mean() / np.square(truth - found).mean()) > 30


@pytest.mark.slow
def test_a_stopped_calibration_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, folder = Bundle.open(SHAPES), tmp_path / "copy"
    shutil.copytree(SHAPES, folder)
    plan = trajectories(bundle, PROMPTS[:3], 0, SMALL)
    contexts = encode(bundle, PROMPTS)

    def run(home: str, report: Callable[[str], None] = lambda _: None) -> Any:
        monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / home))
        return calibrate(bundle, folder, plan, contexts, ["unet", "vae_decoder"], report)

    def stop(note: str) -> None:
        if note.startswith("calibration: 2 of 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop)
    notes: list[str] = []
    found, whole = run("stopped", notes.append), run("whole")
    assert notes[0] == "calibration: 2 of 3 trajectories are known from before"
    for stage in ("unet", "vae_decoder"):
        arrays = found.ranges[stage].arrays()
        for name, rows in whole.ranges[stage].arrays().items():
            np.testing.assert_array_equal(arrays[name], rows)
        assert found.noise[stage].snr_db() == whole.noise[stage].snr_db()
    assert sorted(p.name for p in (folder / "unet").iterdir()) == sorted(
        p.name for p in (SHAPES / "unet").iterdir()
    )


@pytest.mark.slow
def test_a_calibration_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / "home"))
    bundle, folder = Bundle.open(SHAPES), tmp_path / "copy"
    shutil.copytree(SHAPES, folder)
    plan = trajectories(bundle, PROMPTS[:1], 0, SMALL)
    found = calibrate(bundle, folder, plan, encode(bundle, PROMPTS), ["vae_decoder"], print)
    assert (found.done, list(found.noise)) == (1, ["vae_decoder"])


def test_a_damaged_record_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "record.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    assert calibrating.Calibration.load(path).done == 0


def _narrow(tmp_path: Path, weight_range: float) -> tuple[Path, dict[str, Array]]:
    """Write the two layers with activations as large as `weight_range` makes them."""
    path, inputs = _model(tmp_path)
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.name == "w":
            scaled = numpy_helper.to_array(weight) * weight_range
            weight.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), "w"))
    onnx.save(model, path)
    return path, inputs


@pytest.mark.parametrize(
    ("weight_range", "islands"), [(1.0, set()), (30.0, {"conv", "move", "product"})]
)
def test_large_numbers_stay_in_float32(
    tmp_path: Path, weight_range: float, islands: set[str]
) -> None:
    path, inputs = _narrow(tmp_path, weight_range)
    peaks, measured = Peaks(), tmp_path / "peaks.onnx"
    observed = ir.load(path)
    names = add_peaks(observed)
    ir.save(observed, measured)
    truth, *more = _run(measured, inputs)
    peaks.add(names, more)
    assert peaks.largest["conv"] == pytest.approx(_largest(path, inputs, "y"))
    model = ir.load(path)
    found = peaks.islands(model)
    assert found == islands
    assert to_float16(model, found) == len(found)
    ir.save(model, tmp_path / "half.onnx")
    weights = onnx.load(tmp_path / "half.onnx").graph.initializer
    kind = TensorProto.FLOAT if islands else TensorProto.FLOAT16
    assert {weight.data_type for weight in weights} == {kind}
    result = _run(tmp_path / "half.onnx", inputs)[0]
    assert result.dtype == np.float32
    assert 10 * np.log10(np.square(truth).mean() / np.square(truth - result).mean()) > 50


def test_a_fused_node_inherits_the_peaks_of_those_it_replaces() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    root, one, half = math.sqrt(2), 1.0, 0.5
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["a"], name="before"),
        helper.make_node("Div", ["a", "root"], ["b"], name="div"),
        helper.make_node("Erf", ["b"], ["c"], name="erf_1"),
        helper.make_node("Add", ["c", "one"], ["d"], name="add"),
        helper.make_node("Mul", ["d", "half"], ["e"], name="halved"),
        helper.make_node("Mul", ["a", "e"], ["f"], name="product"),
        helper.make_node("Relu", ["f"], ["g"], name="move"),
        helper.make_node("Mul", ["g", "half"], ["y"], name="after"),
    ]
    numbers = {"root": root, "one": one, "half": half}
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in numbers.items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "gelu", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    plain, fused = ir.from_proto(proto), ir.from_proto(proto)
    names = ("before", "div", "add", "product", "halved", "after")
    peaks = Peaks({**dict.fromkeys(names, 1.0), "product": 9e4})
    assert fuse_gelu(fused) == 1
    assert peaks.islands(fused) == set()  # its name is new
    assert peaks.with_fused(plain, fused).islands(fused) == {"erf_1_gelu", "move", "after"}
    # The fused node was measured: what is large before it does not reach beyond it.
    before = Peaks({**peaks.largest, "before": 9e4, "product": 1.0})
    assert before.with_fused(plain, fused).islands(fused) == {"before", "erf_1_gelu"}


def _largest(path: Path, inputs: dict[str, Array], name: str) -> float:
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save(model, path.with_name("with_output.onnx"))
    return float(np.abs(_run(path.with_name("with_output.onnx"), inputs)[1]).max())


def test_a_float32_constant_keeps_no_file_of_float32_weights(tmp_path: Path) -> None:
    """At full size one of 640 bytes, in float16 graphs, kept 3 GB."""
    path, inputs = _model(tmp_path)
    stored, copy = tmp_path / "stored.onnx", tmp_path / "copy.onnx"
    ir.save(ir.load(path), stored, external_data="stored.onnx_data", size_threshold_bytes=0)
    WeightStore(tmp_path / "store.onnx_data").save(ir.load(stored), copy)
    assert set(external_files(stored)) == {"stored.onnx_data"}
    assert set(external_files(copy)) == {"store.onnx_data"}
    np.testing.assert_array_equal(_run(copy, inputs)[0], _run(path, inputs)[0])


def test_a_removed_graph_takes_its_weights_along(tmp_path: Path) -> None:
    """At full size 270 MB of float32 weights stayed, which no graph of the default bundle reads."""
    path, inputs = _model(tmp_path)
    folder = tmp_path / "stage"
    folder.mkdir()
    kept, removed = folder / "kept.onnx", folder / "removed.onnx"
    other = ir.load(path)
    for value in other.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * 2, name=value.name)
    store = WeightStore(folder / "model.onnx_data")
    store.save(other, removed)  # first, so that what stays has to move
    store.save(ir.load(path), kept)
    store = WeightStore(folder / "unread.onnx_data")
    store.save(ir.load(path), folder / "third.onnx")
    whole = (folder / "model.onnx_data").stat().st_size
    for graph in (removed, folder / "third.onnx"):
        graph.unlink()
    compact(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["kept.onnx", "model.onnx_data"]
    assert (folder / "model.onnx_data").stat().st_size < 0.6 * whole
    np.testing.assert_array_equal(_run(kept, inputs)[0], _run(path, inputs)[0])
    compacted = (folder / "model.onnx_data").read_bytes()
    compact(folder)
    assert (folder / "model.onnx_data").read_bytes() == compacted


def test_prompts_that_a_small_model_does_not_know_are_noted() -> None:
    bundle, told = Bundle.open(SHAPES), list[str]()
    note_unknown(bundle, bundle.manifest.prompts, told.append)
    assert told == []
    note_unknown(bundle, ["a zyzzyva", "a quagga"], told.append)
    assert len(told) == 1
    assert "--prompts" in told[0]
