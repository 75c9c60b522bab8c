"""GroupNorm in OpenVINO without a change of layout: the same numbers, fewer nodes."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.engines.bfloat16 import in_bfloat16
from hummingbird_edge.runtime.engines.group_norm import keep_layout
from hummingbird_edge.runtime.placement.trial import example_inputs, snr_db
from tests.conftest import SHAPES

openvino = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")

CORE = openvino.Core()
CHANNELS, GROUPS = 8, 2


@pytest.mark.parametrize(
    ("stage", "sizes", "norms", "left"),
    [
        # What is left over a clip: LayerNorm, and norms between spatial and temporal layers.
        ("unet", {"frames": 3, "height": 8, "width": 16}, 34, 31),
        ("vae_decoder", {"frames": 2, "height": 8, "width": 16}, 22, 0),
    ],
)
@pytest.mark.slow
def test_a_stage_computes_the_same(
    stage: str, sizes: dict[str, int], norms: int, left: int
) -> None:
    bundle = Bundle.open(SHAPES)
    model = CORE.read_model(str(bundle.graph(stage)))
    inputs = example_inputs(bundle.manifest, stage, sizes)
    expected = run(model, inputs, "f32")
    before = count(model, "MVN")
    assert not keep_layout(CORE, model, 0)  # sizes that are free
    model.reshape({port.any_name: inputs[port.any_name].shape for port in model.inputs})
    assert not keep_layout(CORE, model)  # small ones
    keep_layout(CORE, model, 0)
    assert (before - count(model, "MVN"), count(model, "MVN")) == (norms, left)
    assert snr_db(run(model, inputs, "f32"), expected) > 100


def test_statistics_are_float32_whatever_the_rest_is() -> None:
    """A mean of thirty deviations: its square in bfloat16 would leave nothing of the variance."""
    if "bf16" not in Device.parse("openvino").precisions():
        pytest.skip("this processor has no bfloat16")
    x = np.random.default_rng(0).standard_normal((2, CHANNELS, 16, 24), np.float32)
    x = (np.round(x * 4) / 4 + 30).astype(np.float32)  # exact in bfloat16
    truth = run(group_norm(), {"x": x}, "f32")
    hinted, narrow = group_norm(x.shape), group_norm(x.shape)
    keep_layout(CORE, hinted, 0)
    assert snr_db(run(hinted, {"x": x}, "bf16"), truth) > 35
    in_bfloat16(narrow, keep_layout(CORE, narrow, 0))
    assert snr_db(run(narrow, {"x": x}, "bf16"), truth) > 35


def test_other_norms_stay() -> None:
    """With a scale of its own InstanceNormalization is another layer; so is a gain of columns."""
    shape = (1, CHANNELS, 8, CHANNELS)
    columns, one = (1, 1, 1, CHANNELS), (1, 1, 1, 1)
    for other in (
        group_norm(shape, np.full(GROUPS, 2, np.float32)),
        group_norm(shape, gains=columns),
        group_norm(shape, gains=one),
    ):
        assert not keep_layout(CORE, other, 0)
        assert count(other, "MVN") == 1


def group_norm(
    shape: tuple[int, ...] = (-1, CHANNELS, -1, -1),
    scale: NDArray[np.float32] | None = None,
    gains: tuple[int, ...] = (1, CHANNELS, 1, 1),
) -> Any:
    """Return a GroupNorm as ONNX exporters write it, between convolutions that change nothing.

    What follows the last product would be computed in float32, whatever the precision is.
    """
    draw = np.random.default_rng(1)
    x = ops.parameter(list(shape), np.float32, name="x")
    x.output(0).set_names({"x"})
    pad = [0, 0]
    weight = ops.constant(np.eye(CHANNELS, dtype=np.float32)[:, :, None, None])
    y = ops.convolution(x, weight, [1, 1], pad, pad, [1, 1])
    groups = ops.reshape(y, np.array([0, GROUPS, -1], np.int64), True)
    normal = ops.mvn(groups, np.array([2], np.int64), True, 1e-6, "inside_sqrt")
    one = np.ones(GROUPS, np.float32) if scale is None else scale
    normal = ops.multiply(normal, ops.constant(one.reshape(1, GROUPS, 1)))
    normal = ops.add(normal, ops.constant(np.zeros((1, GROUPS, 1), np.float32)))
    normal = ops.reshape(normal, ops.shape_of(y), False)
    gain, bias = draw.standard_normal((2, *gains)).astype(np.float32)
    y = ops.add(ops.multiply(normal, ops.constant(gain)), ops.constant(bias))
    y = ops.convolution(y, weight, [1, 1], pad, pad, [1, 1])
    return openvino.Model([ops.result(y)], [x], "group_norm")


def count(model: Any, kind: str) -> int:
    return sum(node.get_type_name() == kind for node in model.get_ops())


def run(model: Any, inputs: dict[str, NDArray[Any]], precision: str) -> NDArray[np.float32]:
    config = {"INFERENCE_PRECISION_HINT": getattr(openvino.Type, precision)}
    compiled = CORE.compile_model(model, "CPU", config)
    names = {name for port in compiled.inputs for name in port.get_names()}
    found = compiled({name: value for name, value in inputs.items() if name in names})
    return np.array(found[0])
