"""Each kernel against its equation in NumPy's float64, in every form it has."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.export.graph import for_export
from hummingbird_edge.kernels.attention import attention
from hummingbird_edge.kernels.embedding import sinusoidal_embedding
from hummingbird_edge.kernels.feed_forward import GEGLU, SplitGEGLU
from hummingbird_edge.kernels.temporal_conv import FlatTemporalConv, TemporalConv

Floats = NDArray[np.float64]


class Attention(nn.Module):
    """The kernel as a module, so that it can be traced."""

    def __init__(self, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, self.heads, self.causal)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def eager(module: nn.Module) -> Callable[..., torch.Tensor]:
    def run(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = module(*inputs)
        return out

    return run


def traced(module: nn.Module) -> Callable[..., torch.Tensor]:
    """Return the form that an export takes, run by PyTorch."""

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.export.export(module, inputs).module()(*inputs)
        return out.detach()

    return run


def attend(q: Floats, k: Floats, v: Floats, heads: int, causal: bool) -> Floats:
    out = np.zeros((*q.shape[:2], v.shape[2]))
    width = q.shape[2] // heads
    for n in range(q.shape[0]):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[n, :, part] @ k[n, :, part].T / math.sqrt(width)
            if causal:
                scores[np.triu_indices(len(scores), 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[n, :, part] = weights / weights.sum(axis=1, keepdims=True) @ v[n, :, part]
    return out


def convolve(x: Floats, weight: Floats, bias: Floats) -> Floats:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    frames = x.shape[2]
    taps = [
        np.einsum("oc,bcthw->bothw", weight[:, :, i], padded[:, :, i : i + frames])
        for i in range(3)
    ]
    total: Floats = sum(taps, start=np.zeros(1)) + bias[None, :, None, None, None]
    return total


def geglu(x: Floats, weight: Floats, bias: Floats) -> Floats:
    value, gate = np.split(x @ weight.T + bias, 2, axis=-1)
    normal_cdf = (1 + np.vectorize(math.erf)(gate / math.sqrt(2))) / 2
    out: Floats = value * gate * normal_cdf
    return out


def double(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.detach().double().numpy()
    return array


def assert_close(found: torch.Tensor, expected: NDArray[Any]) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("form", [eager, traced])
@pytest.mark.parametrize(("heads", "queries", "keys"), [(1, 3, 3), (4, 6, 6), (2, 5, 7)])
def test_attention(
    form: Callable[[nn.Module], Callable[..., torch.Tensor]], heads: int, queries: int, keys: int
) -> None:
    q, k, v = normal(2, queries, 8), normal(2, keys, 8, seed=1), normal(2, keys, 8, seed=2)
    found = form(Attention(heads, causal=False))(q, k, v)
    assert_close(found, attend(double(q), double(k), double(v), heads, causal=False))


@pytest.mark.parametrize("form", [eager, traced])
def test_causal_attention(form: Callable[[nn.Module], Callable[..., torch.Tensor]]) -> None:
    q, k, v = (normal(2, 6, 8, seed=seed) for seed in range(3))
    found = form(Attention(2, causal=True))(q, k, v)
    assert_close(found, attend(double(q), double(k), double(v), 2, causal=True))


def test_exported_attention_is_two_products() -> None:
    q, k, v = normal(2, 5, 8), normal(2, 7, 8), normal(2, 7, 8)
    program = torch.export.export(Attention(2, causal=False), (q, k, v))
    targets = [str(node.target) for node in program.graph.nodes]
    assert sum("matmul" in target for target in targets) == 2
    assert not any("scaled_dot_product" in target for target in targets)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_sinusoidal_embedding(dtype: torch.dtype) -> None:
    t = torch.tensor([0, 1, 279, 999], dtype=dtype)
    angles = double(t)[:, None] * np.exp(-math.log(10000) * np.arange(160) / 160)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    found = sinusoidal_embedding(t, 320)
    # Float32 holds 999 radians to 3e-5.
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_sinusoidal_embedding_is_the_recorded_one(golden: dict[str, NDArray[Any]]) -> None:
    t = torch.from_numpy(golden["timestep_embedding_t"])
    found = sinusoidal_embedding(t, int(golden["timestep_embedding_dim"]))
    # Recorded in float32, which holds 999 radians to 3e-5.
    np.testing.assert_allclose(found.numpy(), golden["timestep_embedding"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_temporal_convolution(frames: int) -> None:
    torch.manual_seed(0)
    published, x = TemporalConv(4, 6), normal(2, 4, frames, 3, 5)
    weight, bias = published.weight, published.bias
    assert weight.shape == (6, 4, 3, 1, 1)
    assert bias is not None
    expected = convolve(double(x), double(weight)[..., 0, 0], double(bias))
    assert_close(eager(published)(x), expected)
    assert_close(eager(published.for_export())(x), expected)
    with torch.no_grad():
        assert_close(nn.Conv3d.forward(published, x), expected)


def test_gated_feed_forward() -> None:
    torch.manual_seed(0)
    published, x = GEGLU(6, 10), normal(2, 3, 6)
    expected = geglu(double(x), double(published.proj.weight), double(published.proj.bias))
    assert_close(eager(published)(x), expected)
    assert_close(eager(published.for_export())(x), expected)


def test_forms_for_export_share_memory() -> None:
    gated, convolution = GEGLU(6, 10), TemporalConv(4, 6)
    whole = for_export(nn.Sequential(nn.Sequential(gated), convolution))
    split, flat = whole.get_submodule("0.0"), whole.get_submodule("1")
    assert isinstance(split, SplitGEGLU)
    assert isinstance(flat, FlatTemporalConv)
    with torch.no_grad():
        gated.proj.weight[10:] = 7
        convolution.weight.fill_(5)
    assert (split.get_parameter("gate.weight") == 7).all()
    assert (flat.weight == 5).all()
