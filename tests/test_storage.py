"""Weights stored as float16: half the bytes, and the numbers of the rounded module."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hummingbird_edge.export.graph import export_graph, save_graph
from hummingbird_edge.export.stage import Stage
from hummingbird_edge.kernels.upsample_conv import UpsampleConv
from hummingbird_edge.quantize.storage import round_to_float16, store_as_float16
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session

STAGE = Stage("tiny", "tiny", {"x": {0: "batch"}}, "y", {0: "batch"})


class Tiny(nn.Module):
    """Two layers, one of whose biases is too small to be worth narrowing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 512), nn.Linear(512, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(nn.functional.silu(self.first(x)))
        return out


@pytest.fixture
def module() -> Tiny:
    torch.manual_seed(0)
    return Tiny().eval()


def saved(module: nn.Module, folder: Path, narrow: bool) -> Path:
    model = export_graph(module, STAGE, {"x": torch.ones(3, 32)}, 18)
    if narrow:
        # Two weights and a bias of 512; the bias of 8 stays.
        assert store_as_float16(model) == 3
    save_graph(model, folder)
    return folder / "model.onnx"


@pytest.mark.slow
def test_sizes_halve_and_numbers_are_the_rounded_modules(module: Tiny, tmp_path: Path) -> None:
    original = copy.deepcopy(module)
    wide = saved(copy.deepcopy(module), tmp_path / "wide", narrow=False)
    largest = round_to_float16(module)
    narrow = saved(copy.deepcopy(module), tmp_path / "narrow", narrow=True)

    sizes = [path.with_name("model.onnx_data").stat().st_size for path in (wide, narrow)]
    assert 0.5 <= sizes[1] / sizes[0] < 0.52

    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rounded, exact = module(x).numpy(), original(x).numpy()
    found = open_session(narrow, Backend.parse("cpu")).run({"x": x.numpy()})
    np.testing.assert_allclose(found, rounded, rtol=0, atol=1e-6)
    assert np.abs(found - exact).max() > 1e-6
    assert 0 < largest < 2**-12


@pytest.mark.slow
def test_stored_weights_are_the_rounded_ones_to_the_bit(module: Tiny, tmp_path: Path) -> None:
    round_to_float16(module)
    path = saved(copy.deepcopy(module), tmp_path, narrow=True)
    model = onnx.load(path)
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    narrow = {name: array for name, array in stored.items() if array.dtype == np.float16}
    assert len(narrow) == 3
    for parameter in (module.first.weight, module.first.bias, module.second.weight):
        expected = parameter.detach().numpy()
        assert any(
            np.array_equal(array.astype(np.float32), expected)
            or np.array_equal(array.astype(np.float32), expected.T)
            for array in narrow.values()
        )
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert sorted(cast.input[0] for cast in casts) == sorted(narrow)


@pytest.mark.slow
def test_sums_of_rounded_weights_stay_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, x = nn.Sequential(UpsampleConv(16, 16)).eval(), torch.randn(2, 16, 3, 5)
    round_to_float16(layer)
    with torch.no_grad():
        rounded = layer(x).numpy()
    stage = Stage("tiny", "tiny", {"input": {}}, "y", {})
    model = export_graph(layer, stage, {"input": x}, 18)
    assert store_as_float16(model) == 0
    save_graph(model, tmp_path)
    found = open_session(tmp_path / "model.onnx", Backend.parse("cpu")).run({"input": x.numpy()})
    np.testing.assert_allclose(found, rounded, rtol=0, atol=1e-6)


def test_rounding_reports_the_largest_change() -> None:
    layer, small = nn.Linear(256, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        for module in (layer, small):
            module.weight.fill_(1.0 + 2**-12)
    assert round_to_float16(layer) == 2**-12
    assert set(layer.weight.flatten().tolist()) == {1.0}
    # Too small to be stored narrow: it stays as it is.
    assert round_to_float16(small) == 0
    assert small.weight[0, 0].item() == 1.0 + 2**-12
