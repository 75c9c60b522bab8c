"""Each kernel against its equation in NumPy's float64, in every form it has.

Graphs run in ONNX Runtime as they are written, its optimiser off; operators that its CPU provider
lacks run in onnx's reference evaluator.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import nn

from hummingbird_edge.export.graph import export_graph, for_export
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.unet import TransformerBlock
from hummingbird_edge.export.stage import STAGES, Stage
from hummingbird_edge.kernels.attention import attention, attention_in_products
from hummingbird_edge.kernels.embedding import condition_embedding, sinusoidal_embedding
from hummingbird_edge.kernels.feed_forward import GEGLU, SplitGEGLU
from hummingbird_edge.kernels.fused_attention import fuse_attention
from hummingbird_edge.kernels.fused_gelu import fuse_gelu
from hummingbird_edge.kernels.fused_group_norm import fuse_group_norm
from hummingbird_edge.kernels.group_norm import GroupNormSiLU
from hummingbird_edge.kernels.temporal_conv import FlatTemporalConv, TemporalConv
from hummingbird_edge.kernels.upsample_conv import PhaseConv, UpsampleConv
from hummingbird_edge.quantize.storage import round_to_float16
from hummingbird_edge.runtime.bundle.bundle import Bundle

Floats = NDArray[np.float64]


class Attention(nn.Module):
    """The kernel as a module, so that it can be traced."""

    def __init__(self, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, self.heads, self.causal)


class Embedding(nn.Module):
    """The embedding with layers of its own, for models with and without a guidance scale."""

    def __init__(self, width: int, out_width: int, guidance_width: int | None) -> None:
        super().__init__()
        self.time, self.fps = (
            nn.Sequential(nn.Linear(width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))
            for _ in range(2)
        )
        if guidance_width is not None:
            self.guidance = nn.Linear(guidance_width, width, bias=False)

    def forward(
        self, timestep: torch.Tensor, fps: torch.Tensor, w: torch.Tensor | None = None
    ) -> torch.Tensor:
        guidance = None if w is None else self.guidance(w)
        out: torch.Tensor = condition_embedding(timestep, fps, guidance, self.time, self.fps)
        return out


class NormTwice(nn.Module):
    """A GroupNorm whose result is read before its SiLU too."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        out: torch.Tensor = nn.functional.silu(y) + y
        return out


class GroupNorm(OpRun):
    """`com.microsoft.GroupNorm` of (N, H, W, C), as DirectML computes it."""

    op_domain = "com.microsoft"

    def _run(
        self,
        x: Any,
        gamma: Any,
        beta: Any,
        activation: Any,
        channels_last: Any,
        epsilon: Any,
        groups: Any,
    ) -> tuple[Any]:
        assert channels_last == 1
        assert gamma.shape == beta.shape == x.shape[3:]
        first = np.moveaxis(x.astype(np.float64), 3, 1)
        y = np.moveaxis(group_norm(first, gamma, beta, groups, epsilon), 1, 3)
        return ((silu(y) if activation else y).astype(x.dtype),)


class Gelu(OpRun):
    """`com.microsoft.Gelu`."""

    op_domain = "com.microsoft"

    def _run(self, x: Any, approximate: Any = None) -> tuple[Any]:
        return ((x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2).astype(x.dtype),)


class MultiHeadAttention(OpRun):
    """`com.microsoft.MultiHeadAttention` without a mask."""

    op_domain = "com.microsoft"

    def _run(self, q: Any, k: Any, v: Any, num_heads: Any, scale: Any) -> tuple[Any]:
        assert math.isclose(scale, (q.shape[2] / num_heads) ** -0.5, rel_tol=1e-6)
        return (attend(q, k, v, num_heads, causal=False).astype(q.dtype),)


DIRECTML = [GroupNorm, Gelu, MultiHeadAttention]


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


def graph_of(module: nn.Module, *inputs: torch.Tensor, opset: int = 18) -> onnx_ir.Model:
    """Export a small module by the path that stages take."""
    names = list(inspect.signature(module.forward).parameters)[: len(inputs)]
    named = dict(zip(names, inputs, strict=True))
    stage = Stage("kernel", "unet", {name: {} for name in names}, "y", {})
    return export_graph(module, stage, named, opset)


def kinds(model: onnx_ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def feeds(model: onnx_ir.Model, inputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    names = [str(value.name) for value in model.graph.inputs]
    return {name: x.numpy() for name, x in zip(names, inputs, strict=True)}


def in_onnxruntime(model: onnx_ir.Model, *inputs: torch.Tensor) -> torch.Tensor:
    """Run a graph on ONNX Runtime's CPU provider, node for node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = onnx_ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, feeds(model, inputs))[0])


def in_reference(model: onnx_ir.Model, *inputs: torch.Tensor) -> torch.Tensor:
    """Run a graph with DirectML's operators in NumPy."""
    evaluator = ReferenceEvaluator(onnx_ir.to_proto(model), new_ops=DIRECTML)
    outputs: Any = evaluator.run(None, feeds(model, inputs))
    return torch.from_numpy(np.asarray(outputs[0]))


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


def group_norm(x: Floats, gamma: Floats, beta: Floats, groups: int, epsilon: float) -> Floats:
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(axis=2, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + epsilon)
    channels = (-1, *(1,) * (x.ndim - 2))
    out: Floats = scaled.reshape(x.shape) * gamma.reshape(channels) + beta.reshape(channels)
    return out


def silu(x: Floats) -> Floats:
    out: Floats = x / (1 + np.exp(-x))
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


def test_attention_in_products_has_the_gradients_of_pytorchs_own() -> None:
    own = q, k, v = [normal(2, 6, 8, seed=seed).requires_grad_() for seed in range(3)]
    theirs = [x.detach().double().requires_grad_() for x in own]
    with attention_in_products():
        found = attention(q, k, v, heads=2)
    assert_close(found.detach(), attend(double(q), double(k), double(v), 2, causal=False))
    q, k, v = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in theirs)
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    weights = normal(2, 6, 8, seed=9)
    (found * weights).sum().backward()
    (expected.transpose(1, 2).flatten(2) * weights.double()).sum().backward()
    for x, y in zip(own, theirs, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert_close(x.grad, y.grad.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sequences", "queries", "keys"),
    [(2, 6, 6), (1, 10, 7), (12, 4, 4)],
    ids=["spatial", "cross", "temporal"],
)
def test_attention_in_graphs(sequences: int, queries: int, keys: int) -> None:
    inputs = [
        normal(sequences, length, 8, seed=i) for i, length in enumerate((queries, keys, keys))
    ]
    q, k, v = (double(x) for x in inputs)
    expected = attend(q, k, v, heads=2, causal=False)
    model = graph_of(Attention(2, causal=False), *inputs)
    portable = {"Mul": 1, "Reshape": 4, "Transpose": 4, "MatMul": 2, "Softmax": 1}
    assert kinds(model) == portable
    assert_close(in_onnxruntime(model, *inputs), expected)
    assert fuse_attention(model) == 1
    assert kinds(model) == {"MultiHeadAttention": 1}
    assert_close(in_onnxruntime(model, *inputs), expected)


@pytest.mark.slow
def test_frames_share_the_keys_and_values_of_the_text() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 6).eval()
    x, context = normal(3, 5, 8), normal(1, 7, 6, seed=1)
    with torch.no_grad():
        apart = torch.cat([block(frame[None], context) for frame in x])
    model = graph_of(block, x, context)
    found = kinds(model)
    assert not found.keys() & {"Expand", "Tile", "Gather", "Concat", "Split"}
    # Seven projections besides the feed-forward's three, and two products an attention.
    assert found["MatMul"] == 8 + 3 + 4
    assert_close(in_onnxruntime(model, x, context), apart.numpy())
    assert (fuse_attention(model), fuse_gelu(model)) == (2, 1)
    assert_close(in_onnxruntime(model, x, context), apart.numpy())


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


@pytest.mark.slow
def test_gated_feed_forward_in_graphs() -> None:
    torch.manual_seed(0)
    published, x = GEGLU(6, 10), normal(2, 3, 6)
    expected = geglu(double(x), double(published.proj.weight), double(published.proj.bias))
    model = graph_of(nn.Sequential(published), x)
    assert kinds(model) == {"MatMul": 2, "Add": 3, "Div": 1, "Erf": 1, "Mul": 3}
    assert_close(in_onnxruntime(model, x), expected)
    assert fuse_gelu(model) == 1
    assert kinds(model) == {"MatMul": 2, "Add": 2, "Gelu": 1, "Mul": 1}
    assert_close(in_onnxruntime(model, x), expected)


@pytest.mark.slow
def test_gelu_of_a_newer_opset_is_whole_already() -> None:
    x = normal(2, 3, 6)
    model = graph_of(nn.Sequential(GEGLU(6, 10)), x, opset=20)
    assert kinds(model) == {"MatMul": 2, "Add": 2, "Gelu": 1, "Mul": 1}
    assert fuse_gelu(model) == 1
    assert {node.domain for node in model.graph} == {""}


@pytest.mark.slow
def test_another_activation_is_no_gelu() -> None:
    model = graph_of(nn.Sequential(nn.Linear(6, 10), nn.GELU("tanh")), normal(2, 3, 6))
    assert fuse_gelu(model) == 0


def published_norm(kind: type[nn.GroupNorm], groups: int, channels: int) -> nn.GroupNorm:
    """Return a norm with weights that are not those it begins with."""
    norm = kind(groups, channels, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(normal(channels, seed=1))
        norm.bias.copy_(normal(channels, seed=2))
    return norm


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("shape", [(2, 12, 3, 5), (1, 12, 4, 3, 2)], ids=["frames", "clip"])
@pytest.mark.parametrize("kind", [nn.GroupNorm, GroupNormSiLU])
def test_group_norm(kind: type[nn.GroupNorm], shape: tuple[int, ...], opset: int) -> None:
    norm, x = published_norm(kind, 4, 12), normal(*shape)
    expected = group_norm(double(x), double(norm.weight), double(norm.bias), 4, 1e-3)
    has_silu = kind is GroupNormSiLU
    if has_silu:
        expected = silu(expected)
    assert set(norm.state_dict()) == {"weight", "bias"}
    assert_close(eager(norm)(x), expected)
    model = graph_of(norm, x, opset=opset)
    portable = {"GroupNormalization": 1}
    if opset < 21:
        portable = {"Reshape": 2, "InstanceNormalization": 1, "Mul": 1, "Add": 1}
    assert Counter(portable) + Counter({"Sigmoid": 1, "Mul": 1} if has_silu else {}) == kinds(model)
    assert_close(in_onnxruntime(model, x), expected)
    assert fuse_group_norm(model) == 1
    assert kinds(model) == {"GroupNorm": 1, "Transpose": 2, "Reshape": 4, "Shape": 1}
    assert_close(in_reference(model, x), expected)


@pytest.mark.slow
def test_a_norm_that_is_read_twice_keeps_its_silu_apart() -> None:
    norm, x = published_norm(nn.GroupNorm, 4, 12), normal(2, 12, 3, 5)
    y = group_norm(double(x), double(norm.weight), double(norm.bias), 4, 1e-3)
    model = graph_of(NormTwice(norm), x)
    assert fuse_group_norm(model) == 1
    assert kinds(model)["Sigmoid"] == 1
    assert_close(in_reference(model, x), silu(y) + y)


@pytest.mark.parametrize("stage", ["unet", "vae_decoder"])
def test_the_graph_for_directml_computes_the_same(nano_bundle: Path, stage: str) -> None:
    config = ModelConfig.from_dict(Bundle.open(nano_bundle).manifest.provenance.config)
    inputs = tuple(STAGES[stage].inputs(config, 2, 2, 4, 0).values())
    plain, own = (
        onnx_ir.external_data.load_to_model(onnx_ir.load(nano_bundle / stage / f"{name}.onnx"))
        for name in ("model", "dml")
    )
    assert kinds(own)["InstanceNormalization"] == 0
    assert kinds(own)["GroupNorm"] == kinds(plain)["InstanceNormalization"]
    expected = in_onnxruntime(plain, *inputs).numpy()
    found = in_reference(own, *inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


@pytest.mark.slow
def test_temporal_convolution_in_graphs() -> None:
    torch.manual_seed(0)
    published, x = TemporalConv(4, 6), normal(1, 4, 5, 3, 2)
    assert published.bias is not None
    weight = double(published.weight)[..., 0, 0]
    model = graph_of(nn.Sequential(published), x)
    assert kinds(model) == {"Reshape": 2, "Conv": 1}
    (convolution,) = (node for node in model.graph if node.op_type == "Conv")
    assert list(convolution.attributes["kernel_shape"].as_ints()) == [3, 1]
    assert_close(in_onnxruntime(model, x), convolve(double(x), weight, double(published.bias)))


def upsample_and_convolve(x: Floats, weight: Floats, bias: Floats | float) -> Floats:
    padded = np.pad(x.repeat(2, axis=2).repeat(2, axis=3), ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = padded.shape[2] - 2, padded.shape[3] - 2
    taps = [
        np.einsum("oc,nchw->nohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    ]
    total: Floats = sum(taps, start=np.zeros(1)) + np.reshape(bias, (-1, 1, 1))
    return total


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
def test_upsampling_convolution(size: tuple[int, int], has_bias: bool) -> None:
    torch.manual_seed(0)
    published, x = UpsampleConv(4, 6, has_bias), normal(2, 4, *size)
    assert set(published.state_dict()) == {"weight", "bias"} if has_bias else {"weight"}
    bias = 0.0 if published.bias is None else double(published.bias)
    expected = upsample_and_convolve(double(x), double(published.weight), bias)
    assert_close(eager(published)(x), expected)
    assert_close(eager(published.for_export())(x), expected)


@pytest.mark.slow
def test_upsampling_convolution_in_graphs() -> None:
    torch.manual_seed(0)
    published, x = UpsampleConv(4, 6), normal(2, 4, 3, 5)
    assert published.bias is not None
    expected = upsample_and_convolve(double(x), double(published.weight), double(published.bias))
    model = graph_of(nn.Sequential(published), x)
    assert kinds(model) == {"Conv": 1, "DepthToSpace": 1, "Slice": 1}
    (convolution,) = (node for node in model.graph if node.op_type == "Conv")
    assert list(convolution.attributes["kernel_shape"].as_ints()) == [2, 2]
    assert_close(in_onnxruntime(model, x), expected)


@pytest.mark.slow
def test_upsampling_convolution_at_full_size() -> None:
    """The decoder's first: rounding adds up over 512 channels."""
    torch.manual_seed(0)
    published, x = UpsampleConv(512, 512), normal(1, 512, 40, 64)
    expected = eager(published)(x).double()
    model = graph_of(nn.Sequential(published), x)
    error = in_onnxruntime(model, x).double() - expected
    # 118 dB: PyTorch's own rounding counts too.
    assert 10 * torch.log10(expected.square().sum() / error.square().sum()) >= 110


def test_a_graph_holds_the_sums_of_rounded_weights_exactly() -> None:
    """They need more than float16's digits: stored so, they would be another network's."""
    torch.manual_seed(0)
    published = UpsampleConv(16, 16)
    round_to_float16(published)
    sums = published.for_export().weight.detach()
    ones = torch.nn.functional.conv_transpose2d(
        published.weight.detach().double(), torch.ones(16, 1, 2, 2).double(), groups=16
    )
    found, expected = sums.flatten().sort().values, ones.flatten().sort().values
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-7)
    assert not torch.equal(sums, sums.half().float())


@pytest.mark.parametrize("guidance_width", [None, 6])
def test_condition_embedding(guidance_width: int | None) -> None:
    torch.manual_seed(0)
    module = Embedding(8, 10, guidance_width)
    inputs = [torch.tensor([279]), torch.tensor([8])]

    def sinusoid(t: int) -> Floats:
        angles = t * np.exp(-math.log(10000) * np.arange(4) / 4)
        return np.concatenate([np.cos(angles), np.sin(angles)])[None]

    def mlp(layers: nn.Sequential, x: Floats) -> Floats:
        hidden, first, out, last = (double(p) for p in layers.parameters())
        result: Floats = silu(x @ hidden.T + first) @ out.T + last
        return result

    time = sinusoid(279)
    if guidance_width is not None:
        inputs.append(normal(1, guidance_width))
        time = time + double(inputs[2]) @ double(module.guidance.weight).T
    expected = mlp(module.time, time) + mlp(module.fps, sinusoid(8))
    # Float32 holds 279 radians to 2e-5.
    np.testing.assert_allclose(eager(module)(*inputs).numpy(), expected, rtol=0, atol=2e-5)
    model = graph_of(module, *inputs)
    found = kinds(model)
    assert (found["Cos"], found["Sin"]) == (2, 2)
    assert found["Gemm"] == 4 + (guidance_width is not None)
    assert not found.keys() & {"Exp", "Range", "Div"}, "frequencies are constants"
    found_numbers = in_onnxruntime(model, *inputs).numpy()
    np.testing.assert_allclose(found_numbers, expected, rtol=0, atol=2e-5)


def test_forms_for_export_share_memory() -> None:
    gated, convolution = GEGLU(6, 10), TemporalConv(4, 6)
    whole = for_export(nn.Sequential(nn.Sequential(gated), convolution, UpsampleConv(4, 6)))
    split, flat = whole.get_submodule("0.0"), whole.get_submodule("1")
    assert isinstance(whole.get_submodule("2"), PhaseConv)
    assert isinstance(split, SplitGEGLU)
    assert isinstance(flat, FlatTemporalConv)
    with torch.no_grad():
        gated.proj.weight[10:] = 7
        convolution.weight.fill_(5)
    assert (split.get_parameter("gate.weight") == 7).all()
    assert (flat.weight == 5).all()
