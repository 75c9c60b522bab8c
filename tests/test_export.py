"""Bundles: the graphs are valid, free in their axes, and give the recorded numbers."""

import importlib.metadata
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from numpy.typing import NDArray
from onnxscript import rewriter
from onnxscript.rewriter._rewrite_rule import RewriteRuleSet
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from hummingbird_edge.export import graph, stage_process
from hummingbird_edge.export.architecture import read_config
from hummingbird_edge.export.bundle_plan import BundlePlan
from hummingbird_edge.export.bundle_writer import write_bundle
from hummingbird_edge.export.checkpoint import Checkpoint, read_checkpoint
from hummingbird_edge.export.graph import export_graph
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.stage import STAGES as EXPORTED
from hummingbird_edge.export.stage import Stage
from hummingbird_edge.export.weights import CheckpointWeights, RandomWeights, Weights
from hummingbird_edge.kernels.variant import VARIANTS, save_variant
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import Variant
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.errors import (
    CheckpointError,
    HummingbirdError,
    OutputError,
    RequestError,
)
from hummingbird_edge.runtime.files import sha256_of

NANO = Path(__file__).parent / "data" / "nano_07b_merged_all.pt"
STAGES = ["text_encoder", "unet", "vae_decoder", "vae_encoder", "tiny_decoder"]

HALVES = ["vae_decoder_head", "vae_decoder_tail"]
"""Graphs of a decoder that is run by tiles."""

FUSED_STAGES = {"unet": 26, "vae_decoder": 1, "vae_encoder": 1}
"""Stages with attention that has no mask, and how often."""

Golden = dict[str, NDArray[Any]]


@pytest.fixture
def tiny(tiny_config: Path) -> Callable[..., BundlePlan]:
    """Return a function that plans the very small model, of one stage unless told otherwise."""
    config = ModelConfig.from_dict(json.loads(tiny_config.read_text(encoding="utf-8")))

    def plan(stages: tuple[str, ...] = ("text_encoder",), opset: int = 18) -> BundlePlan:
        return BundlePlan(
            "tiny", config, stages, opset, "float32", tiny_config.parent / "tokenizer", "none"
        )

    return plan


def quiet(_: str) -> None:
    """Hear nothing of the progress."""


def run(bundle: Path, stage: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    return open_session(bundle / stage / "model.onnx", Backend.parse("cpu")).run(inputs)


@pytest.mark.parametrize("stage", STAGES)
def test_graphs_are_valid(nano_bundle: Path, stage: str) -> None:
    path = nano_bundle / stage / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import if o.domain == ""] == [("", 18)]
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    located = [i for i in model.graph.initializer if i.external_data]
    assert {e.value for i in located for e in i.external_data if e.key == "location"} == {
        "model.onnx_data"
    }
    inline = [i for i in model.graph.initializer if not i.external_data]
    assert sum(i.ByteSize() for i in inline) < 64 * 1024
    assert path.with_name("model.onnx_data").stat().st_size > 8 * path.stat().st_size


@pytest.mark.parametrize("stage", FUSED_STAGES)
def test_the_fused_variant_is_the_same_graph_with_whole_attentions(
    nano_bundle: Path, stage: str
) -> None:
    import onnxruntime

    folder = nano_bundle / stage
    plain, fused = (
        onnx.load(folder / name, load_external_data=False) for name in ("model.onnx", "fused.onnx")
    )
    kinds = Counter(node.op_type for node in fused.graph.node)
    assert kinds["MultiHeadAttention"] == FUSED_STAGES[stage]
    assert kinds["Softmax"] == 0
    before = Counter(node.op_type for node in plain.graph.node)
    assert before["Transpose"] - kinds["Transpose"] == 4 * FUSED_STAGES[stage]
    assert before["MatMul"] - kinds["MatMul"] == 2 * FUSED_STAGES[stage]
    # Over one file of weights, and no weight of its own.
    located = [i for i in fused.graph.initializer if i.external_data]
    assert {e.value for i in located for e in i.external_data if e.key == "location"} == {
        "model.onnx_data"
    }
    assert (folder / "fused.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    config = ModelConfig.from_dict(Bundle.open(nano_bundle).manifest.provenance.config)
    inputs = {n: x.numpy() for n, x in EXPORTED[stage].inputs(config, 3, 16, 24, 0).items()}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = [
        onnxruntime.InferenceSession(
            str(folder / name), options, providers=["CPUExecutionProvider"]
        ).run(None, inputs)[0]
        for name in ("model.onnx", "fused.onnx")
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=2e-5)


def test_each_device_gets_its_variant(nano_bundle: Path) -> None:
    bundle = Bundle.open(nano_bundle)
    chosen = {name: bundle.graph("unet", name).name for name in ("cpu", "dml", "openvino")}
    assert chosen == {"cpu": "fused.onnx", "dml": "dml.onnx", "openvino": "model.onnx"}
    assert bundle.graph("unet").name == "model.onnx"
    assert bundle.graph("text_encoder", "cpu").name == "model.onnx"


def test_attention_of_another_form_is_not_passed_over(nano_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(nano_bundle / "unet", tmp_path / "unet")
    with pytest.raises(RequestError, match="26 of 27 attentions in unet have the form"):
        save_variant(tmp_path / "unet", VARIANTS[0], {"attentions": 27})


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_computed_from_weights_alone(nano_bundle: Path, stage: str) -> None:
    graph = onnx.load(nano_bundle / stage / "model.onnx", load_external_data=False).graph
    fixed = {i.name for i in graph.initializer}
    fixed |= {o for node in graph.node if node.op_type == "Constant" for o in node.output}
    idle = [
        (node.op_type, node.name)
        for node in graph.node
        if node.input and all(not name or name in fixed for name in node.input)
    ]
    assert idle == []


@pytest.mark.parametrize("stage", STAGES)
def test_graphs_hold_no_trace_of_the_machine(nano_bundle: Path, stage: str) -> None:
    content = (nano_bundle / stage / "model.onnx").read_bytes()
    for trace in (str(Path(__file__).parent.parent), "site-packages", ".py"):
        assert trace.encode() not in content


@pytest.mark.parametrize(
    ("stage", "inputs", "output"),
    [
        (
            "text_encoder",
            {"input_ids": ["batch", 77]},
            {"last_hidden_state": ["batch", 77, 16]},
        ),
        (
            "unet",
            {
                "sample": [1, 4, "frames", "height", "width"],
                "timestep": [1],
                "encoder_hidden_states": [1, 77, 16],
                "timestep_cond": [1, 256],
                "fps": [1],
            },
            {"out_sample": [1, 4, "frames", "height", "width"]},
        ),
        (
            "vae_decoder",
            {"latent_sample": ["frames", 4, "height", "width"]},
            {"sample": ["frames", 3, "sample_2", "sample_3"]},
        ),
        (
            "vae_encoder",
            {"sample": ["frames", 3, "height", "width"]},
            {
                "latent_parameters": [
                    "frames",
                    8,
                    "latent_parameters_2",
                    "latent_parameters_3",
                ]
            },
        ),
        (
            "tiny_decoder",
            {"latent_sample": ["frames", 4, "height", "width"]},
            {"sample": ["frames", 3, "sample_2", "sample_3"]},
        ),
    ],
)
def test_free_axes_have_names(
    nano_bundle: Path, stage: str, inputs: dict[str, Any], output: dict[str, Any]
) -> None:
    graph = onnx.load(nano_bundle / stage / "model.onnx", load_external_data=False).graph

    def axes(values: Any) -> dict[str, list[int | str]]:
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in values
        }

    assert axes(graph.input) == inputs
    assert axes(graph.output) == output


def test_bundle_has_the_layout_of_diffusers(nano_bundle: Path) -> None:
    found = {p.relative_to(nano_bundle).as_posix() for p in nano_bundle.rglob("*") if p.is_file()}
    graphs = {f"{stage}/model.onnx{suffix}" for stage in STAGES for suffix in ("", "_data")}
    graphs |= {f"{stage}/{name}" for stage in FUSED_STAGES for name in ("fused.onnx", "dml.onnx")}
    graphs |= {f"vae_decoder/{name}.onnx" for name in ("head", "head_fused", "head_dml", "tail")}
    assert found == graphs | {
        "hummingbird.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
    }
    index = json.loads((nano_bundle / "model_index.json").read_text(encoding="utf-8"))
    assert set(index) == {"_class_name", *STAGES, "tokenizer", "scheduler"}
    scheduler = (nano_bundle / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
    assert json.loads(scheduler)["_class_name"] == "LCMScheduler"
    assert json.loads(scheduler)["prediction_type"] == "epsilon"


def test_manifest_tells_what_was_built(nano_bundle: Path) -> None:
    manifest = Bundle.open(nano_bundle).manifest
    assert manifest.name == "nano_07b_merged_all"
    assert list(manifest.stages) == [*STAGES[:3], *HALVES, *STAGES[3:]]
    assert manifest.stages["unet"].parameters == 1_470_532
    assert manifest.stages["unet"].variants == (
        Variant("unet/model.onnx", opset=18),
        Variant("unet/fused.onnx", opset=18, devices=("cpu",)),
        Variant("unet/dml.onnx", opset=18, devices=("dml",)),
    )
    for entry in manifest.stages.values():
        agreement = entry.agreement_with_pytorch
        assert agreement is not None
        assert 0 < agreement.largest_difference < 1e-4
        assert agreement.snr_db > 80
        assert agreement.shapes == ((2, 4, 2), (5, 2, 4))
    provenance = manifest.provenance
    assert provenance.source == NANO.name
    assert provenance.source_sha256 == sha256_of(NANO)
    assert provenance.torch == torch.__version__
    assert provenance.hummingbird_edge == importlib.metadata.version("hummingbird-edge")
    assert ModelConfig.from_dict(provenance.config).text.width == 16
    assert "terms" in manifest.licence


@pytest.mark.parametrize("case", ["unet0", "unet1"])
def test_unet_graph_gives_the_recorded_output(nano_bundle: Path, golden: Golden, case: str) -> None:
    inputs = {
        "sample": golden[f"{case}_sample"],
        "timestep": golden[f"{case}_timestep"],
        "timestep_cond": golden[f"{case}_guidance_embedding"],
        "fps": golden[f"{case}_fps"],
        "encoder_hidden_states": golden["unet_context"],
    }
    found = run(nano_bundle, "unet", inputs)
    np.testing.assert_allclose(found, golden[f"{case}_output"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("stage", "name", "given", "recorded"),
    [
        ("text_encoder", "input_ids", "tokens", "text_hidden"),
        ("vae_decoder", "latent_sample", "vae_latent", "vae_decoded"),
        ("vae_encoder", "sample", "vae_image", "vae_moments"),
    ],
)
def test_graphs_give_the_recorded_output(
    nano_bundle: Path, golden: Golden, stage: str, name: str, given: str, recorded: str
) -> None:
    found = run(nano_bundle, stage, {name: golden[given]})
    np.testing.assert_allclose(found, golden[recorded], rtol=0, atol=1e-4)


def test_random_weights_make_a_bundle(tiny_bundle: Path, tiny_config: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=True)
    manifest = bundle.manifest
    assert (manifest.name, list(manifest.stages)) == ("tiny", [*STAGES[:3], *HALVES])
    assert manifest.model.guidance_width is None
    assert manifest.sampler.prediction_type == "v_prediction"
    assert manifest.defaults.width == 16
    assert manifest.provenance.source == "random weights, seed 0"
    config = ModelConfig.from_dict(json.loads(tiny_config.read_text(encoding="utf-8")))
    assert ModelConfig.from_dict(manifest.provenance.config) == config
    for stage, entry in manifest.stages.items():
        variant = entry.variants[0]
        assert (variant.storage, variant.opset) == ("float16", 20)
        assert 0 < entry.largest_rounding_of_a_weight < 1e-2
        model = onnx.load(bundle.graph(stage), load_external_data=False)
        assert [o.version for o in model.opset_import if o.domain == ""] == [20]
        large = [i for i in model.graph.initializer if np.prod(i.dims) >= 256]
        # Sums of rounded weights stay float32: upsampling convolutions alone are 2 x 2.
        large = [i for i in large if list(i.dims)[2:] != [2, 2]]
        assert large
        assert {i.data_type for i in large} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}


@pytest.mark.slow
def test_a_seed_fixes_random_weights(tiny: Callable[..., BundlePlan], tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        write_bundle(tiny(), RandomWeights(seed), tmp_path / name, quiet, force=False)
    one, same, other = (
        sha256_of(tmp_path / name / "text_encoder" / "model.onnx_data")
        for name in ("one", "same", "other")
    )
    assert one == same != other


@pytest.mark.slow
def test_an_existing_folder_is_kept_unless_forced(
    tiny: Callable[..., BundlePlan], tmp_path: Path
) -> None:
    out, weights = tmp_path / "out", RandomWeights()
    out.mkdir()
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    for force in (False, True):  # what is no bundle is never replaced
        with pytest.raises(OutputError, match=r"out is there already: choose another folder"):
            write_bundle(tiny(), weights, out, quiet, force=force)
    assert (out / "mine.txt").read_text(encoding="utf-8") == "mine"

    bundle = tmp_path / "bundle"
    heard: list[str] = []
    write_bundle(tiny(), weights, bundle, heard.append, force=False)
    assert len(heard) == 1
    assert heard[0].startswith("text_encoder: ")
    digest = Bundle.open(bundle).digest
    with pytest.raises(OutputError, match=r"or replace a bundle with --force$"):
        write_bundle(tiny(), RandomWeights(1), bundle, quiet, force=False)
    assert Bundle.open(bundle).digest == digest
    (bundle / "old.txt").write_text("of the old bundle", encoding="utf-8")
    write_bundle(tiny(opset=21), RandomWeights(1), bundle, quiet, force=True)
    assert Bundle.open(bundle, verify=True).digest != digest
    assert not (bundle / "old.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "out"]


class Interrupted:
    """Weights whose second network makes the user press Ctrl-C."""

    def load(self, name: str, config: ModelConfig) -> nn.Module:
        if name != "text_encoder":
            raise KeyboardInterrupt
        return RandomWeights().load(name, config)

    def provenance(self) -> dict[str, Any]:
        return {}


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_export_leaves_nothing(
    tiny: Callable[..., BundlePlan], tmp_path: Path, existing: bool
) -> None:
    out = tmp_path / "bundles" / "out"
    if existing:
        write_bundle(tiny(), RandomWeights(), out, quiet, force=False)
    heard: list[str] = []
    weights: Weights = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tiny(("text_encoder", "unet")), weights, out, heard.append, force=True)
    assert len(heard) == 1  # the first stage was written
    left = [path.name for path in tmp_path.glob("bundles/*")]
    assert left == (["out"] if existing else [])
    if existing:
        assert list(Bundle.open(out, verify=True).manifest.stages) == ["text_encoder"]


@pytest.mark.parametrize("opset", [16, 17, 22])
def test_other_opsets_are_refused(
    tiny: Callable[..., BundlePlan], tmp_path: Path, opset: int
) -> None:
    with pytest.raises(RequestError, match=rf"^opset {opset} is not supported: choose 18 to 21$"):
        write_bundle(tiny(opset=opset), RandomWeights(), tmp_path / "out", quiet, force=False)
    assert list(tmp_path.iterdir()) == []


def altered(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Weights:
    return CheckpointWeights(Checkpoint("altered.pt", (NANO,), tensors, dict(metadata)))


def test_unfit_tensors_are_listed_at_once(tmp_path: Path) -> None:
    nano = read_checkpoint(NANO)
    prefix = "cond_stage_model.model."
    tensors = dict(nano.tensors)
    del tensors[prefix + "ln_final.weight"]
    tensors[prefix + "ln_final.bias"] = torch.full((16,), torch.nan)
    tensors[prefix + "positional_embedding"] = torch.zeros(76, 16)
    tensors[prefix + "extra"] = torch.zeros(1)
    plan = BundlePlan("nano", read_config(nano), ["text_encoder"], 18, "float32", None, "none")
    with pytest.raises(CheckpointError) as caught:
        write_bundle(plan, altered(tensors, nano.metadata), tmp_path / "out", quiet, force=False)
    message = str(caught.value)
    for part in (
        "1 missing: ln_final.weight",
        "1 unexpected: extra",
        "1 misshapen: positional_embedding is (76, 16) instead of (77, 16)",
        "1 non-finite: ln_final.bias",
    ):
        assert part in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_weights_that_overflow_are_refused(tmp_path: Path) -> None:
    """Finite weights can still make NaN; comparing with PyTorch finds that out."""
    nano = read_checkpoint(NANO)
    name = "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight"
    tensors = {**nano.tensors, name: torch.full_like(nano.tensors[name], 3e38)}
    plan = BundlePlan("nano", read_config(nano), ["text_encoder"], 18, "float32", None, "none")
    with pytest.raises(CheckpointError, match="exported text_encoder differs from PyTorch by nan"):
        write_bundle(plan, altered(tensors, nano.metadata), tmp_path / "out", quiet, force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_quadratic_rules_are_left_out(
    tiny: Callable[..., BundlePlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxscript changed once how it keeps its rules, and exports took a third longer unseen."""
    applied: list[object] = []
    apply = RewriteRuleSet.apply_to_model

    def listen(rules: RewriteRuleSet, model: onnx_ir.Model, *given: Any, **options: Any) -> int:
        applied.extend(rules.rules)
        return apply(rules, model, *given, **options)

    monkeypatch.setattr(RewriteRuleSet, "apply_to_model", listen)
    before = rewriter._DEFAULT_REWRITE_RULES
    write_bundle(tiny(), RandomWeights(), tmp_path / "out", quiet, force=False)
    names = {getattr(rule, "name", None) for rule in applied}
    assert "ReshapeReshape" in names
    assert "SlicesSplit" in {rule.name for rule in before} - names
    assert before is rewriter._DEFAULT_REWRITE_RULES


@pytest.mark.slow
def test_the_exporters_table_of_operators_is_read_once() -> None:
    """PyTorch reads it for every graph, a quarter of a small one's export."""
    stage = Stage("layer", "unet", {"input": {}}, "y", {})
    pytorchs = vars(ONNXRegistry)["from_torchlib"]

    def export() -> tuple[int, int]:
        export_graph(nn.Linear(2, 3), stage, {"input": torch.ones(1, 2)}, 18)
        found = graph._operators.cache_info()
        return found.hits, found.misses

    (hits, misses), again = export(), export()
    assert again == (hits + 1, misses)
    assert vars(ONNXRegistry)["from_torchlib"] is pytorchs  # for the exports of others


def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export even small stages side by side."""
    monkeypatch.setattr(stage_process, "_MIN_PARAMETERS", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.mark.slow
def test_processes_write_the_same_files(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nano, stages = read_checkpoint(NANO), ["text_encoder", "vae_encoder"]
    plan = BundlePlan("nano", read_config(nano), stages, 18, "float32", None, "none")
    in_processes(monkeypatch)
    heard: list[str] = []
    write_bundle(plan, CheckpointWeights(nano), tmp_path / "out", heard.append, force=False)
    made, known = (Bundle.open(path).manifest for path in (tmp_path / "out", nano_bundle))
    assert list(made.stages) == stages
    of_stages = {name for name in known.files if name.partition("/")[0] in stages}
    assert of_stages
    assert {name: made.files[name] for name in of_stages} == {n: known.files[n] for n in of_stages}
    assert {line.partition(":")[0] for line in heard} == set(stages)


@pytest.mark.slow
def test_what_fails_in_a_process_is_told_as_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nano, file = read_checkpoint(NANO), tmp_path / "damaged.pt"
    name = "cond_stage_model.model.ln_final.bias"
    torch.save({**nano.tensors, name: torch.full_like(nano.tensors[name], torch.nan)}, file)
    plan = BundlePlan("nano", read_config(nano), STAGES[:2], 18, "float32", None, "none")
    in_processes(monkeypatch)
    with pytest.raises(CheckpointError, match=r"1 non-finite: ln_final\.bias"):
        write_bundle(
            plan, CheckpointWeights(read_checkpoint(file)), tmp_path / "out", quiet, force=False
        )
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_tokenizer_folder_must_be_whole(
    tiny: Callable[..., BundlePlan], tmp_path: Path, missing: str
) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in {"vocab.json", "merges.txt", "tokenizer_config.json"} - {missing}:
        (folder / name).write_text("{}", encoding="utf-8")
    plan = BundlePlan("tiny", tiny().config, ["text_encoder"], 18, "float32", folder, "none")
    with pytest.raises(RequestError, match=f"tokenizer has no {missing}"):
        write_bundle(plan, RandomWeights(), tmp_path / "out", quiet, force=False)
    assert list(tmp_path.iterdir()) == [folder]


def test_clips_vocabulary_must_fit(tiny: Callable[..., BundlePlan], tmp_path: Path) -> None:
    plan = BundlePlan("tiny", tiny().config, ["text_encoder"], 18, "float32", None, "none")
    with pytest.raises(HummingbirdError, match=r"CLIP's vocabulary has 49408: .* --tokenizer$"):
        write_bundle(plan, RandomWeights(), tmp_path / "out", quiet, force=False)
    assert list(tmp_path.iterdir()) == []
