"""Quantized bundles, by the commands: what they hold and make, what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hummingbird_edge.distill.quantized import captions_and_judge
from hummingbird_edge.distill.recipe import SHAPES_RECIPE
from hummingbird_edge.distill.score import ShapesEvaluation
from hummingbird_edge.export.bundle_plan import BundlePlan
from hummingbird_edge.export.cli import build_precision
from hummingbird_edge.export.weights import Weights
from hummingbird_edge.quantize.bundle import quantize_bundle
from hummingbird_edge.quantize.precision import graphs_for
from hummingbird_edge.quantize.quality import compare
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.devices.backend import backends
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from tests.conftest import DATA, SHAPES, command_line, export

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PROMPTS = [
    "a red circle moving right",
    "a blue square growing",
    "a green triangle spinning",
    "a yellow star moving up",
    "a white ring moving left",
    "a purple cross shrinking",
]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join([*PROMPTS, "", "  "]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    """The model of moving shapes in int8 and float32."""
    out = tmp_path_factory.mktemp("int8") / "int8"
    asked = ["--prompts", prompts, "--precision", "fp32+int8", "--calibration", 4, "--held-out", 2]
    assert _quantize(SHAPES, out, *asked) == 0
    return out


def _quantize(*arguments: object) -> object:
    return export("quantize", *arguments)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_an_int8_video_is_near_the_float32_one(int8_bundle: Path, device: str) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    exact = TextToVideo.from_bundle(SHAPES, device="cpu", precision="fp32")
    small = TextToVideo.from_bundle(
        int8_bundle, device=device, precision="unet=int8,vae=int8,text=int8"
    )
    made = [
        [pipeline(p, seed=40 + i).frames for i, p in enumerate(PROMPTS)]
        for pipeline in (small, exact)
    ]
    quality = compare(*made)
    assert quality.median_db >= 36
    assert quality.median_db < 60  # it was not float32
    assert {how.backend.precision for how in small.placements.values()} == {"int8"}


def test_the_bundle_says_what_was_done(int8_bundle: Path) -> None:
    bundle = Bundle.open(int8_bundle, verify=True)
    report = json.loads((int8_bundle / "quantization.json").read_text(encoding="utf-8"))
    for stage in ("unet", "vae_decoder"):
        alone = np.median(report["quality"][stage]["psnr_db"])
        assert bundle.manifest.stage(stage).psnr_db == pytest.approx(alone, abs=0.01)
        assert bundle.manifest.stage(stage).precisions == ("float32", "int8")
        assert bundle.manifest.stage(stage).psnr_db >= 36
        assert bundle.graph(stage, "cpu", "int8").name == "int8_fused.onnx"
        assert bundle.graph(stage, "openvino", "int8").name == "int8.onnx"
    assert report["quality"]["unet"] != report["quality"]["vae_decoder"]
    assert bundle.manifest.prompts == Bundle.open(SHAPES).manifest.prompts
    assert len(report["layers"]) == 177
    assert min(row["snr_db"] for row in report["layers"]) > 20
    assert len(report["quality"]["video"]["psnr_db"]) == report["held_out"] == 2
    assert min(report["quality"]["video"]["ssim"]) > 0.95
    table = (int8_bundle / "QUANTIZATION.md").read_text(encoding="utf-8")
    assert "177 of 177 layers are in int8" in table
    assert (int8_bundle / "quantization.png").read_bytes().startswith(b"\x89PNG")


def test_int8_is_calibrated_on_what_the_model_can_be_asked_for(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(SHAPES, bare)
    entries = json.loads((bare / MANIFEST).read_text(encoding="utf-8"))
    (bare / MANIFEST).write_text(json.dumps({**entries, "prompts": []}), encoding="utf-8")
    for source, is_noted in ((SHAPES, False), (bare, True)):
        told: list[str] = []
        quantize_bundle(
            source,
            tmp_path / f"{is_noted}",
            precision="vae=int8",
            quick=True,
            held_out=0,
            frames=2,
            width=32,
            height=32,
            notify=told.append,
        )
        assert any("not trained on all words" in line for line in told) == is_noted


def test_the_same_seed_gives_the_same_graphs(
    int8_bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / "cache"))  # nothing is known from before
    asked = ["--precision", "unet=int8", "--calibration", 4, "--held-out", 0]
    assert _quantize(SHAPES, tmp_path / "again", "--prompts", prompts, *asked) == 0
    graph = Path("unet") / "int8.onnx_data"
    assert (tmp_path / "again" / graph).read_bytes() == (int8_bundle / graph).read_bytes()


def test_more_layers_stay_where_more_is_asked_for(prompts: Path, tmp_path: Path) -> None:
    asked = ["--calibration", 2, "--held-out", 1, "--min-psnr", 60, "--precision", "vae=int8"]
    assert _quantize(SHAPES, tmp_path / "near", "--prompts", prompts, *asked) == 0
    report = json.loads((tmp_path / "near" / "quantization.json").read_text(encoding="utf-8"))
    kept = sum(row["kept"] for row in report["layers"])
    assert 0 < kept < 30
    assert report["quality"]["video"]["psnr_db"][0] >= 60
    assert min(psnr for count, psnr in report["tried"] if count >= kept) >= 60


def test_a_bundle_of_int8_alone_is_smaller_and_runs(
    hb: Command, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    asked = ["--prompts", prompts, "--calibration", 2, "--held-out", 0]
    asked += ["--size", "32x32", "--frames", 2]
    done = hb("hb-export", "quantize", SHAPES, out, *asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(out.rglob("model.onnx_data")) or {
        path.parent.name for path in out.rglob("model.onnx_data")
    } == {"vae_encoder"}
    encoder = sum(p.stat().st_size for p in (SHAPES / "vae_encoder").iterdir())
    sizes = [sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) for f in (out, SHAPES)]
    assert sizes[0] - encoder < 0.62 * (sizes[1] - encoder)
    done = hb("hb-run", PROMPTS[0], "--bundle", out, "--device", "cpu", "--verbose", cwd=tmp_path)
    assert done.returncode == 0
    assert "unet ran on cpu int8" in done.stderr or "cpu int8" in done.stderr
    refused = hb("hb-run", "a", "--bundle", out, "--precision", "fp32", cwd=tmp_path)
    assert refused.returncode == 1
    assert "cannot compute" in refused.stderr
    assert "int8 graphs" in refused.stderr
    again = hb("hb-export", "quantize", out, tmp_path / "twice", "--prompts", prompts)
    assert again.returncode == 2
    assert "has int8, float32 graphs of text_encoder, not float32 alone" in again.stderr


def test_auto_takes_int8_where_it_is_near(int8_bundle: Path, tmp_path: Path) -> None:
    def chosen(bundle: Path, device: str) -> str:
        graphs = Bundle.open(bundle).manifest.stage("unet").trusted
        return backends("unet", device, "auto", graphs)[0].precision

    pytest.importorskip("openvino")
    assert chosen(int8_bundle, "openvino") == "int8"
    assert chosen(int8_bundle, "cpu") == "fp32"  # where it would be slower
    far = tmp_path / "far"
    shutil.copytree(int8_bundle, far)
    entries = json.loads((far / "hummingbird.json").read_text(encoding="utf-8"))
    for variant in entries["stages"]["unet"]["variants"]:
        if variant["precision"] == "int8":
            variant["psnr_db"] = 25.0
    (far / "hummingbird.json").write_text(json.dumps(entries), encoding="utf-8")
    assert chosen(far, "openvino") != "int8"
    with pytest.raises(DeviceError, match="float32 graphs"):
        TextToVideo.from_bundle(SHAPES, device="cpu", precision="int8")


def test_what_is_right_is_counted_before_and_after(hb: Command, tmp_path: Path) -> None:
    out, count = tmp_path / "judged", 3
    asked = ["--precision", "vae=int8", "--calibration", 1, "--held-out", 0, "--captions", count]
    model = ["--world", "shapes", "--bundle", SHAPES]
    done = hb("hb-distill", "quantize", out, *model, *asked)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "quantization.json").read_text(encoding="utf-8"))["accuracy"]
    manifest, evaluation = Bundle.open(SHAPES).manifest, ShapesEvaluation(SHAPES_RECIPE.world)
    _, jury = captions_and_judge(manifest, evaluation, count, 1, 0)
    counted = {}
    for name, bundle, precision in (("before", SHAPES, "fp32"), ("after", out, "vae=int8")):
        pipeline = TextToVideo.from_bundle(bundle, device="cpu", precision=precision)
        made = [pipeline(r.prompt, seed=r.seed).frames for r in jury.requests]
        counted[name] = jury.accuracy(made)
    assert found == {"videos": count, **counted}
    assert f"of {count} videos showed" in (out / "QUANTIZATION.md").read_text(encoding="utf-8")


def test_a_float16_bundle_shares_its_weights(half_builtin: Path) -> None:
    out = half_builtin
    bundle = Bundle.open(out)
    assert bundle.manifest.stage("unet").precisions == ("float32", "float16")
    assert bundle.graph("unet", "dml", "float16").name == "dml_float16.onnx"
    assert bundle.graph("vae_decoder_tail", "webgpu", "float16").name == "tail_float16.onnx"
    # Graphs, and no weights but those that are stored in float32: sums of upsampling convolutions.
    sums = sum(
        np.prod(weight.dims)
        for stage in ("unet", "vae_decoder")
        for weight in onnx.load(
            BUILTIN / stage / "model.onnx", load_external_data=False
        ).graph.initializer
        if list(weight.dims)[2:] == [2, 2]
    )
    source = Bundle.open(BUILTIN)
    added = [out / name for name in set(bundle.manifest.files) - set(source.manifest.files)]
    size = sum(file.stat().st_size for file in added if file.suffix == ".onnx")
    assert bundle.bytes <= source.bytes + size + 2 * sums + 100_000
    assert bundle.manifest.model == source.manifest.model
    for stage in ("text_encoder", "unet", "vae_decoder"):
        graph = onnx.load(bundle.graph(stage, None, "float16"), load_external_data=False).graph
        large = [w for w in graph.initializer if np.prod(w.dims) > 256]
        assert TensorProto.FLOAT not in {weight.data_type for weight in large}
        exact = {n.op_type for n in graph.node if n.op_type in ("Sin", "Cos")}
        assert exact == ({"Sin", "Cos"} if stage == "unet" else set())
    truth, found = (
        TextToVideo.from_bundle(out, device="cpu", precision=precision)(PROMPTS[1]).frames
        for precision in ("fp32", "fp16")
    )
    assert 45 <= compare([found], [truth]).median_db < 100
    # A processor gains nothing: only who asks gets it.
    graphs = bundle.manifest.stage("unet").trusted
    assert backends("unet", "cpu", "auto", graphs)[0].precision == "fp32"


def test_float16_alone_is_one_store_of_weights(
    nano_bundle: Path, prompts: Path, tmp_path: Path
) -> None:
    """Of a bundle stored in float32: no float32 is left, and no weight is there twice."""
    out = tmp_path / "half"
    asked = ("--prompts", prompts, "--precision", "fp16", "--size", "32x32", "--frames", 2)
    assert _quantize(nano_bundle, out, *asked) == 0
    bundle = Bundle.open(out, verify=True)
    for stage in ("text_encoder", "unet", "vae_decoder"):
        assert bundle.manifest.stage(stage).precisions == ("float16",)
        weights = sum(path.stat().st_size for path in (out / stage).glob("*.onnx_data"))
        stored = (nano_bundle / stage / "model.onnx_data").stat().st_size
        assert 0.4 * stored < weights < 0.56 * stored
    truth, found = (
        TextToVideo.from_bundle(folder, device="cpu", precision=precision)(
            "a red cat", frames=2, width=32, height=32, steps=2
        ).frames
        for folder, precision in ((nano_bundle, "fp32"), (out, "fp16"))
    )
    assert compare([found], [truth]).median_db > 40


def test_only_the_bundles_own_files_are_copied(prompts: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(SHAPES, source)
    (source / ".git").mkdir()
    (source / ".git" / "config").write_text("not ours", encoding="utf-8")
    asked = ("--prompts", prompts, "--precision", "text=int8")
    assert _quantize(source, out, *asked) == 0
    assert not (out / ".git").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
@pytest.mark.parametrize("command", ["build", "quantize"])
def test_sigterm_leaves_nothing(
    nano_bundle: Path, prompts: Path, tmp_path: Path, command: str
) -> None:
    arguments = {
        "build": ("build", DATA / "nano_07b_merged_all.pt", tmp_path / "out"),
        "quantize": ("quantize", nano_bundle, tmp_path / "out", "--prompts", prompts),
    }
    started = subprocess.Popen(
        command_line("hb-export", *arguments[command]), stderr=subprocess.PIPE, text=True
    )
    while started.poll() is None and not list(tmp_path.glob(".out.*")):
        time.sleep(0.05)
    started.terminate()
    _, errors = started.communicate(timeout=120)
    assert started.returncode == 143, errors
    assert "hb-export: terminated" in errors
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_build_is_for_the_devices_of_a_laptop(
    tmp_path: Path, tiny_config: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No float32 weights are left, and the report tells what int8 costs each stage.

    The graphs that it begins with are those of `tiny_bundle`, which were exported before.
    """
    given = list[tuple[BundlePlan, Weights]]()

    def copy(plan: BundlePlan, weights: Weights, out: Path, *_: object) -> None:
        given.append((plan, weights))
        shutil.copytree(tiny_bundle, out)

    monkeypatch.setattr("hummingbird_edge.export.build.write_bundle", copy)
    made = ["--random-weights", "--seed", 3, "--config", tiny_config]
    made += ["--tokenizer", tiny_config.parent / "tokenizer"]
    text = tmp_path / "prompts.txt"
    text.write_text("a red cat\na cat\n", encoding="utf-8")
    assert export("build", *made, tmp_path / "out", "--prompts", text) == 0
    ((plan, weights),) = given
    assert (plan.storage, plan.stages) == ("float16", ["text_encoder", "unet", "vae_decoder"])
    assert weights.provenance() == {"source": "random weights, seed 3"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "prompts.txt"]
    bundle = Bundle.open(tmp_path / "out", verify=True)
    assert bundle.manifest.stage("unet").precisions == ("float16", "int8")
    assert bundle.manifest.stage("vae_decoder").precisions == ("float16", "int8")
    assert bundle.manifest.stage("text_encoder").precisions == ("int8", "float32")
    report = json.loads((bundle.folder / "quantization.json").read_text(encoding="utf-8"))
    assert set(report["quality"]) == {"video", "unet", "vae_decoder"}
    for precision in ("fp16", "int8"):
        pipeline = TextToVideo.from_bundle(
            bundle, device="cpu", precision=f"unet={precision},vae={precision}"
        )
        assert pipeline("a red cat").frames.any()
    stored = sum(path.stat().st_size for path in (bundle.folder / "unet").glob("*.onnx_data"))
    assert stored < 4 * (bundle.manifest.stage("unet").parameters or 0)  # float16 and int8


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ((None, None), {"unet": ("float16", "int8"), "text_encoder": ("int8",)}),
        (("gpu", None), {"unet": ("float16",), "text_encoder": ("float16",)}),
        (("cpu", None), {"unet": ("int8",), "text_encoder": ("int8",)}),
        (("all", None), {"unet": ("float32", "float16", "int8")}),
        ((None, "fp32"), {"unet": ("float32",), "text_encoder": ("float32",)}),
    ],
)
def test_for_names_precisions(
    given: tuple[str | None, str | None], stages: dict[str, tuple[str, ...]]
) -> None:
    found = graphs_for(build_precision(*given))
    assert {stage: found[stage] for stage in stages} == stages
    for wrong in (("tv", None), ("gpu", "int8")):
        with pytest.raises(RequestError, match="--for"):
            build_precision(*wrong)


def test_a_float32_build_needs_nothing_that_only_quantization_does(
    tmp_path: Path, tiny_config: Path
) -> None:
    absent = "import sys; sys.modules |= dict.fromkeys(['skimage', 'matplotlib'])"
    program = f"{absent}; from hummingbird_edge.export.cli import main; main()"
    made = ["build", "--random-weights", "--config", tiny_config]
    made += ["--tokenizer", tiny_config.parent / "tokenizer"]

    def build(*more: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", program, *map(str, [*made, *more])]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")

    writing = f"{absent}; import hummingbird_edge.export.bundle_writer"
    assert subprocess.run([sys.executable, "-c", writing]).returncode == 0
    refused = build(tmp_path / "small")
    assert refused.returncode == 1
    assert "needs skimage, matplotlib, not installed" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--prompts", "nowhere.txt"), 2, r"prompts in nowhere\.txt cannot be read"),
        (("--prompts", "empty.txt"), 2, "holds no prompt"),
        (("--precision", "int4"), 2, "--precision has 'int4': choose from fp32"),
        (("--precision", "unet=int8,unet=fp32"), 2, "names unet twice"),
        (("--calibration", "0"), 2, "give 1 or more trajectories"),
        (("--min-psnr", "nan"), 2, "--min-psnr is nan"),
        (("--size", "65x64"), 2, "width 65 does not divide"),
        (("--force",), 1, "is there already: choose another folder"),
    ],
)
def test_wrong_input_is_one_sentence(
    hb_forked: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    out = tmp_path / "out"
    if arguments == ("--force",):
        out.mkdir()
    before = sorted(tmp_path.iterdir())
    done = hb_forked("hb-export", "quantize", SHAPES, out, *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
