"""Benchmarks: what they write, compare, count, and that each runs whole on small models."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hummingbird_edge.benchmarks import agreement, gpu
from hummingbird_edge.benchmarks.compare import SAME, SLOWER, UNKNOWN, differences, missing
from hummingbird_edge.benchmarks.lib.eager import config_of, random_module
from hummingbird_edge.benchmarks.lib.flops import graph_cost
from hummingbird_edge.benchmarks.lib.model_under_test import random_copy
from hummingbird_edge.benchmarks.lib.record import SCHEMA, Record, Row, Spread
from hummingbird_edge.benchmarks.lib.recording import Inputs, record_inputs
from hummingbird_edge.benchmarks.lib.results_writer import ResultsWriter
from hummingbird_edge.benchmarks.lib.subprocess_runner import run_in_subprocess
from hummingbird_edge.benchmarks.lib.variants import fusions_for
from hummingbird_edge.benchmarks.lib.video import empty_cache
from hummingbird_edge.benchmarks.scaling import exponent
from hummingbird_edge.export.bundle_plan import BundlePlan
from hummingbird_edge.export.graph import for_export
from hummingbird_edge.export.stage import STAGES
from hummingbird_edge.kernels.variant import VARIANTS
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import CACHE_VARIABLE, cache_directory
from tests.conftest import SHAPES, export

pytestmark = pytest.mark.slow  # runs benchmarks

Command = Callable[..., "subprocess.CompletedProcess[str]"]
FOLDER = Path(__file__).parents[1] / "benchmarks"
"""A path in the clone: scripts are run from there."""
RESULTS = sorted(
    path.name
    for path in (FOLDER / "results").glob("*.json")
    if path.name != "distillation.json"  # written before there was a schema
)


def script(name: str, *arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a benchmark as its users do."""
    return subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *(str(argument) for argument in arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        timeout=600,  # PyTorch's compiler tries out kernels
    )


def record(**measures: tuple[float, ...]) -> Record:
    return Record.of("latency", None, [Row("cpu fp32", measures)])


def test_a_second_adapter_gets_the_fusions_of_its_family() -> None:
    expected = next(variant.kernels for variant in VARIANTS if "dml" in variant.devices)
    assert fusions_for(Device.parse("dml:1")) == fusions_for(Device.parse("dml")) == expected
    assert fusions_for(Device.parse("openvino")) == ()


def test_a_spread_of_many_and_of_few() -> None:
    many = Spread.of(tuple(float(value) for value in range(1, 101)))
    assert (many.median, many.p95, many.range, many.count) == (50.5, 95.0, 99.0, 100)
    assert Spread.of((3.0, 1.0, 2.0)).p95 == 3.0
    with pytest.raises(ValueError, match="nothing"):
        Spread.of(())


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = record(video_s=(1.0, 2.0), peak_mib=(300.0,))
    found.write(tmp_path / "a.json")
    assert Record.read(tmp_path / "a.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    entries = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert entries["schema"] == SCHEMA
    assert {"cpu", "gpus", "power", "packages", "commit"} <= entries["machine"].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "hummingbird-edge/benchmark/0"}, "has the schema 'hummingbird-edge/benchmark"),
        ({"rows": [{"name": "a", "measures": {"video_s": ["fast"]}}]}, "is not a whole result"),
        ({"rows": [{"name": "a", "measures": []}]}, "is not a whole result"),
        (
            {"rows": [{"name": "a", "measures": {"a": [10**400]}, "metadata": {}, "failure": ""}]},
            "too large",
        ),
        ({"bundle": []}, "is not a whole result"),
        ({"machine": {}}, "is not a whole result"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "a.json"
    record(video_s=(1.0,)).write(path)
    entries = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(RequestError, match=re.escape(message)):
        Record.read(path)


@pytest.mark.parametrize("name", RESULTS)
def test_published_results_can_be_compared(name: str) -> None:
    result = Record.read(FOLDER / "results" / name)
    assert any(row.measures for row in result.rows)
    assert {found.verdict for found in differences(result, result)} <= {SAME, UNKNOWN}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((1.0, 1.1, 1.1, 1.1, 1.2), (1.05, 1.1, 1.1, 1.2, 1.25), SAME),  # they overlap
        ((1.0, 1.1, 1.1, 1.1, 1.2), (1.21, 1.22, 1.25, 1.26, 1.27), SAME),  # by less than a spread
        ((1.0, 1.0, 1.0, 1.0, 1.0), (1.03, 1.03, 1.03, 1.03, 1.03), SAME),  # as machines drift
        ((1.0, 1.1, 1.1, 1.1, 1.2), (2.0, 2.1, 2.1, 2.1, 2.2), SLOWER),
        ((1.0, 1.1, 1.2, 1.3), (2.0, 2.1, 2.2, 2.3), UNKNOWN),
    ],
)
def test_a_verdict_needs_more_than_the_spread(
    before: tuple[float, ...], after: tuple[float, ...], verdict: str
) -> None:
    (found,) = differences(record(video_s=before), record(video_s=after))
    assert found.verdict == verdict


def test_more_frames_a_second_are_not_slower() -> None:
    few, many = (1.0, 1.1, 1.1, 1.1, 1.2), (3.0, 3.1, 3.1, 3.1, 3.2)
    (found,) = differences(record(fps=few), record(fps=many))
    assert found.verdict == "more"


def test_results_without_a_row_in_common_are_refused() -> None:
    other = replace(record(video_s=(1.0,)), rows=(Row("dml fp16", {"video_s": (1.0,)}),))
    with pytest.raises(RequestError, match="no measured row in common: cpu fp32 and dml fp16"):
        differences(record(video_s=(1.0,)), other)
    failed = replace(other, rows=(Row("cpu fp32", failure="no"),))
    assert missing(record(video_s=(1.0,)), failed) == ["cpu fp32 failed after: no"]
    with pytest.raises(RequestError, match="one result is of latency, the other of peers"):
        differences(other, replace(other, benchmark="peers"))


@pytest.mark.parametrize("stage", ["text_encoder", "unet", "vae_decoder"])
def test_operations_are_those_that_pytorch_counts(stage: str) -> None:
    bundle, frames, side = Bundle.open(BUILTIN), 4, 8
    sizes = {"batch": frames, "frames": frames, "height": side, "width": side}
    config = config_of(bundle)
    module = random_module(config, stage)
    inputs = STAGES[stage].inputs(config, frames, side, side, 0)

    def counted() -> int:
        # The counter knows products; attention as one node is none on every build.
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter, torch.inference_mode():
            module(**inputs)
        return int(counter.get_total_flops())

    cost = graph_cost(bundle.graph(stage), sizes)
    assert cost.published_flops == pytest.approx(counted(), rel=0.02)
    module = for_export(module)
    assert cost.flops == pytest.approx(counted(), rel=0.02)
    parameters = sum(w.numel() for w in module.parameters())
    # Of a table of tokens one run reads the prompt's rows alone.
    tables = [m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Embedding)]
    assert cost.weights == pytest.approx(parameters - sum(tables), rel=0.1)
    assert cost.activations > 0


@pytest.mark.parametrize(
    ("kernel", "strides", "share"),
    [
        ((1, 1), (1, 1), 1),
        ((3, 1), (1, 1), 1 / 2),
        ((3, 3), (1, 1), 1 / 4),
        ((3, 3), (2, 2), 1),
        ((2, 2), (1, 1), 25 / 64),
    ],
)
def test_the_fewest_operations_are_those_of_minimal_filtering(
    tmp_path: Path, kernel: tuple[int, int], strides: tuple[int, int], share: float
) -> None:
    floats, helper = onnx.TensorProto.FLOAT, onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=strides)],
        "convolved",
        [helper.make_tensor_value_info("x", floats, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", floats, None)],
        [onnx.numpy_helper.from_array(np.ones((5, 3, *kernel), np.float32), "w")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    cost = graph_cost(path, {"n": 2})
    assert cost.fewest_flops == pytest.approx(share * cost.flops)
    assert cost.published_flops == cost.flops


def test_only_the_rows_that_are_looked_up_count_as_read(tmp_path: Path) -> None:
    floats, helper = onnx.TensorProto.FLOAT, onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
            helper.make_node("MatMul", ["y", "z"], ["scores"]),
        ],
        "gathered",
        [
            helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("z", floats, [5, 7]),
        ],
        [helper.make_tensor_value_info("scores", floats, ["n", 7])],
        [
            onnx.numpy_helper.from_array(np.ones((1000, 4), np.float32), "table"),
            onnx.numpy_helper.from_array(np.ones((4, 5), np.float32), "w"),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    cost = graph_cost(path, {"n": 3})
    assert (cost.layer_flops, cost.attention_flops) == (2 * 3 * 4 * 5, 2 * 3 * 5 * 7)
    assert (cost.weights, cost.activations) == (4 * 5 + 3 * 4, 3 * 4 + 3 * 5)


def test_rows_are_on_disk_as_they_come(tmp_path: Path) -> None:
    writer = ResultsWriter("latency", None, tmp_path / "a.json")
    writer.add(Row("cpu fp32", {"video_s": (1.0,)}))
    assert Record.read(writer.partial).rows == tuple(writer.rows)
    writer.publish(writer.rows, "a table", lambda axes: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.md", "a.png"]
    assert Record.read(tmp_path / "a.json").rows == tuple(writer.rows)


def test_nan_is_a_row_that_says_so() -> None:
    measures = {"video_s": (1.0,), "agreement_db": (float("nan"),)}
    row = run_in_subprocess(partial(Row, "cpu fp32"), measures, "cpu fp32")
    assert (row.failure, row.measures) == ("its agreement_db came out as NaN or infinite", {})


def test_a_row_holds_the_measurements_of_all_its_processes() -> None:
    measures = {"video_s": (1.0, 2.0)}
    row = run_in_subprocess(partial(Row, "cpu fp32"), measures, "cpu fp32", processes=2)
    assert row.measures == {"video_s": (1.0, 2.0, 1.0, 2.0)}
    assert row.metadata["processes"] == 2


def test_a_killed_process_is_a_row_that_says_so() -> None:
    row = run_in_subprocess(os._exit, 3, "cpu fp32", processes=2)
    assert "killed or crashed" in row.failure


def test_recorded_inputs_are_copies() -> None:
    recorded = list[Inputs]()
    network = record_inputs(lambda inputs: np.float32(2) * inputs["x"], recorded)
    x = np.ones(3, np.float32)
    assert network({"x": x}).tolist() == [2, 2, 2]
    x[:] = 0
    assert [inputs["x"].tolist() for inputs in recorded] == [[1, 1, 1]]


def test_a_cold_video_has_a_cache_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "usual"))
    with empty_cache(tmp_path):
        assert cache_directory().parent == tmp_path
        assert cache_directory() != tmp_path / "usual"


def test_an_exponent_is_the_slope_of_logarithms() -> None:
    pairs = [(size, 3 * size**1.5) for size in (1.0, 2.0, 4.0, 9.0)]
    assert exponent(pairs) == pytest.approx(1.5)
    assert np.isnan(exponent(pairs[:1]))


def test_latency_measures_every_device_and_adds_up(tmp_path: Path) -> None:
    done = script("latency", SHAPES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = Record.read(tmp_path / "latency.json")
    assert found.bundle["sha256"] == Bundle.open(SHAPES).digest
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "latency.md").read_text(encoding="utf-8") == done.stdout
    assert {row.name.split()[0] for row in found.rows} >= {"cpu", "openvino"}
    for row in found.rows:
        assert not row.failure
        assert len(row.measures["video_s"]) == 5 * 3
        assert len(row.measures["unet_step_s"]) == 20 * 3
        assert row.metadata["processes"] == 3
        # Of the whole; the parts have clocks of their own.
        # Some milliseconds are there whatever a video takes: a bfloat16 one takes 130.
        assert row.median("elsewhere_s") < 0.03 * row.median("video_s") + 0.005
        assert row.median("peak_mib") > 100
    near = [row.median("agreement_db") for row in found.rows if "agreement_db" in row.measures]
    assert len(near) == len(found.rows) - 1
    assert min(near) > 30
    once = ("--processes", 1, "--output", "half.json")
    half = script("latency", SHAPES, "--threads", 1, *once, cwd=tmp_path)
    assert half.returncode == 0, half.stderr
    assert {row.metadata["threads"] for row in Record.read(tmp_path / "half.json").rows} == {1}
    both = ("latency.json", "half.json", "--measure", "video_s", "--output", "both.md")
    compared = script("compare", *both, cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "both.md").read_text(encoding="utf-8") == compared.stdout
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert len(re.findall(r"\| video_s \|", compared.stdout)) == len(found.rows)


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("roofline", (SHAPES, "--runs", 1, "--device", "cpu"), 4),
        ("scaling", ("--quick", "--runs", 1, "--device", "cpu"), 8),
        ("headline", ("--quick", "--runs", 1), 4),
        ("peers", ("--runs", 1, "--stages", "text_encoder", "--full-size", "."), 13),
        ("quantization", (SHAPES, "--world", "shapes", "--quick"), 8),
        ("kernels", ("--quick", "--runs", 1), 30),
        ("first_use", ("--runs", 1), 2),
        ("prompts", ("--runs", 1, "--prompts", 3), 2),
        ("scale", ("--nodes", "1,20", "--videos", 8, "--clips", 256), 10),
        ("scale_costs", ("--runs", 1, "--jobs", 20, "--clips", 1), 4),
    ],
)
def test_each_runs_whole(
    tmp_path: Path, tiny_bundle: Path, name: str, arguments: tuple[object, ...], rows: int
) -> None:
    if "--full-size" in arguments:  # a folder in which the bundle of random weights is there
        shutil.copytree(tiny_bundle, tmp_path / "hummingbird-0.7b")
    done = script(name, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = Record.read(tmp_path / f"{name}.json")
    assert len(found.rows) >= rows
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # Other people's tools may be missing, and then say so; ours may not fail.
    for row in found.rows:
        if row.failure and any(name in row.name for name in ("NNCF", "optimum", "torchao")):
            assert re.search("No module named|wrote nothing", row.failure)
        elif row.failure and "torch.compile" in row.name:
            assert sys.platform == "win32"  # where it needs a compiler that may be missing
        elif row.failure:
            assert "ONNX Runtime, defaults" in row.name
    for row in found.rows:
        assert row.name.partition(",")[0] in done.stdout
        # The same weights and inputs: float32 agrees with PyTorch, whoever runs it.
        if "fp32" in row.name and "agreement_db" in row.measures and name != "headline":
            assert row["agreement_db"].min > 80


def test_random_weights_have_the_layout_of_a_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command that is run, up to the export itself."""
    plans = list[BundlePlan]()

    def copy(plan: BundlePlan, weights: object, out: Path, *_: object) -> None:
        plans.append(plan)
        shutil.copytree(tiny_bundle, out)

    def run(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, int(export(*command[3:]) != 0))

    monkeypatch.setattr("hummingbird_edge.export.build.write_bundle", copy)
    monkeypatch.setattr("hummingbird_edge.benchmarks.lib.model_under_test.subprocess.run", run)
    bundle = Bundle.open(BUILTIN)
    made = Bundle.open(random_copy(BUILTIN, tmp_path))
    assert made.manifest.provenance.source == "random weights, seed 0"
    (plan,) = plans
    assert plan.config == config_of(bundle)
    assert (plan.storage, plan.tokenizer) == ("float16", bundle.path("tokenizer"))


@pytest.mark.filterwarnings("ignore::hummingbird_edge.runtime.errors.HummingbirdWarning")
def test_backends_agree_with_pytorch_over_all_steps(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the defaults, but for the random weights: they are exported already.

    Their model knows few of the prompts' words.
    """
    monkeypatch.setattr(agreement, "random_copy", lambda source, folder: tiny_bundle)
    agreement.main(output=tmp_path / "agreement.json")
    found = Record.read(tmp_path / "agreement.json")
    assert {row.name for row in found.rows} >= {"cpu fp32", "openvino fp32"}
    for row in found.rows:
        assert len(row.measures["agreement_db"]) == len(agreement.PROMPTS)
        # This random model has 30 dB in bfloat16, in whatever form its norms are.
        assert row["agreement_db"].min > (80 if "fp32" in row.name else 25)


def test_stages_on_a_gpu_are_compared_with_pytorch(tiny_bundle: Path, tmp_path: Path) -> None:
    """The same code on CPUs; without torch.compile, which another test runs."""
    options = gpu.Options("cpu", "fp32", "cpu", frames=4, size="64x64", runs=1)
    bundle = Bundle.open(tiny_bundle)
    tasks = [task for task in gpu.tasks(bundle, options, tmp_path) if task.tool != gpu.COMPILED]
    rows = {task.name: gpu.measure(task) for task in tasks}
    for stage in ("unet", "a frame of vae_decoder"):
        of_stage = {name: row for name, row in rows.items() if name.startswith(stage)}
        reference, half, runtime = of_stage.values()
        assert "agreement_db" not in reference.measures
        assert 20 < half.median("agreement_db") < 80
        assert runtime.median("agreement_db") > 80
        assert all(row.median("run_s") > 0 for row in of_stage.values())


@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    [
        ("latency", ("nowhere",), 1, "nowhere"),
        ("gpu", (BUILTIN, "--torch-device", "mps:9"), 2, "PyTorch has no mps:9 here"),
        ("gpu", ("nowhere", "--torch-device", "cpu"), 1, "nowhere"),
        ("latency", ("--device", "gpu"), 2, "there is no device called 'gpu'"),
        ("latency", ("--precision", "int4"), 2, "there is no precision 'int4'"),
        ("peers", ("--stages", "unet,vae"), 2, "there is no stage 'vae'"),
        (
            "peers",
            ("--stages", "vae_decoder", "--only", "openvino", "--only", "pytroch"),
            2,
            "--only 'pytroch' is in no row",
        ),
        ("scaling", ("--quick", "--precision", "all"), 2, "one precision grows at a time"),
        ("latency", ("--size", "65x64"), 2, "width 65 does not divide"),
        ("latency", ("--threads", 4096), 2, "--threads is 4096"),
        ("compare", ("a.json", "b.json"), 2, "a.json cannot be read"),
        ("headline", (), 2, "give --full-size FOLDER or --quick"),
        ("kernels", ("--kernel", "rope"), 2, "there is no kernel 'rope': choose from spatial"),
        ("distillation", (".",), 2, "has no teacher: run hb-distill all"),
        ("adapter", (".",), 2, "has no student: run hb-distill all"),
        ("agreement", ("--bundle", "a"), 1, "a"),
        ("headline", ("--quick", "--quantized", "nowhere"), 1, "nowhere"),
        ("latency", ("--output", "a.md"), 1, "give a name that ends in .json"),
        ("scaling", ("--quick", "--full-size", "."), 2, "--quick measures the built-in model"),
    ],
)
def test_wrong_input_is_a_sentence(
    forked: Command,
    tmp_path: Path,
    name: str,
    arguments: tuple[object, ...],
    code: int,
    message: str,
) -> None:
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    done = forked(program, str(FOLDER / f"{name}.py"), *map(str, arguments), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
