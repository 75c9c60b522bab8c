"""Decoding by tiles: how pictures are cut, and how near the result is to decoding them whole."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.export.models.config import ModelConfig, VAEConfig
from hummingbird_edge.export.models.vae import VAE, VAEDecoder, VAEDecoderHead, VAEDecoderTail
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.engines.tiles import OVERLAP, PASSES, Tiles, decode_tiled
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from tests.conftest import SHAPES

Floats = NDArray[np.float32]
Inputs = Mapping[str, NDArray[Any]]

SIZES = [
    (16, 16, 2, 2),
    (40, 64, 2, 2),
    (40, 64, 3, 5),
    (20, 32, 1, 2),
    (9, 31, 1, 4),
    (12, 12, 2, 2),
]


@pytest.mark.parametrize(("height", "width", "rows", "columns"), SIZES)
@pytest.mark.parametrize("scale", [1, 2, 8])
def test_tiles_cover_the_picture(
    height: int, width: int, rows: int, columns: int, scale: int
) -> None:
    tiles = Tiles.grid(height, width, rows, columns)
    total = np.zeros((height * scale, width * scale))
    windows = list(tiles.windows(scale))
    for down, across, *parts in windows:
        weights = parts[0] * parts[1]
        assert weights.shape == (tiles.tile_height * scale, tiles.tile_width * scale)
        assert weights.dtype == np.float32
        assert 0 <= weights.min() <= weights.max() <= 1
        assert total[down, across].shape == weights.shape
        total[down, across] += weights
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
    assert len(windows) == len(tiles) <= rows * columns
    for starts, tile, whole in (
        (tiles.tops, tiles.tile_height, height),
        (tiles.lefts, tiles.tile_width, width),
    ):
        assert (starts[0], starts[-1]) == (0, whole - tile)
        assert all(left + tile - right >= OVERLAP for left, right in pairwise(starts))


def test_what_a_tile_cannot_know_counts_nothing() -> None:
    """The outer quarter of the overlap is left out, the middle half is a straight ramp."""
    tiles = Tiles(8, 20, 8, 12)
    assert (tiles.tops, tiles.lefts) == ([0], [0, 8])
    (_, _, down, left), (_, _, _, right) = tiles.windows(2)
    ramp = [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    np.testing.assert_allclose(right[:8], ramp, atol=1e-6)
    np.testing.assert_allclose(left[-8:], ramp[::-1], atol=1e-6)
    assert (left[:16] == 1).all()
    assert (down == 1).all()


def test_a_tile_as_large_as_the_picture_is_the_picture() -> None:
    for tiles in (Tiles(12, 20, 40, 40), Tiles(5, 6, 5, 6), Tiles.grid(6, 7, 1, 1)):
        ((rows, columns, down, right),) = tiles.windows(1)
        assert (down * right == 1).all()
        assert (down * right).shape == (rows.stop, columns.stop) == (tiles.height, tiles.width)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((40, 64, 7, 40), r"a tile has a height of 7 latent pixels.* give 8 or more"),
        ((40, 64, 40, 0), r"a tile has a width of 0 latent pixels.* give 8 or more"),
        ((40, 64, 12, 20, 12), r"height of 12 .*with an overlap of 12: give 13 or more"),
        ((40, 64, 20, 20, 3), r"overlap by 3 latent pixels: give 4 or more"),
    ],
)
def test_bad_tiles_are_refused(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Tiles(*sizes)


def statistics(x: Floats, weights: Floats) -> Floats:
    """Return the mean and the variance of a tile's features, (N, 1, 2, 1)."""
    mean = (x.mean(1, keepdims=True) * weights).sum((2, 3)) / weights.sum()
    square = (np.square(x).mean(1, keepdims=True) * weights).sum((2, 3)) / weights.sum()
    return np.stack((mean, square - mean**2), axis=1)[:, None]


@pytest.mark.parametrize(("height", "width", "rows", "columns"), SIZES)
def test_a_pointwise_decoder_is_exact(height: int, width: int, rows: int, columns: int) -> None:
    """Pixels that hang on one latent alone, and on the picture's mean and variance."""
    z = np.random.default_rng(0).normal(3, 2, (2, 3, height, width)).astype(np.float32)
    tiles, seen = Tiles.grid(height, width, rows, columns), []

    def head(inputs: Inputs) -> Floats:
        return inputs["latent_sample"].repeat(2, axis=2).repeat(2, axis=3)

    def tail(inputs: Inputs) -> tuple[Floats, Floats]:
        x, weights = inputs["features"], inputs["row_weights"] * inputs["column_weights"]
        seen.append(inputs["statistics"])
        own = statistics(x, weights)
        mean, var = np.where(seen[-1][:, :, 1:] < 0, own, seen[-1])[:, 0].transpose(1, 0, 2)
        y = (x - mean[..., None, None]) / np.sqrt(var[..., None, None])
        return y.repeat(4, axis=2).repeat(4, axis=3), own

    found = decode_tiled(z, tiles, head, tail, layers=1, groups=1)
    over = (1, 2, 3)
    expected = (z - z.mean(over, keepdims=True)) / z.std(over, keepdims=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.kron(expected, np.ones((1, 1, 8, 8))), atol=1e-4)
    assert len(seen) == (PASSES * len(tiles) if len(tiles) > 1 else 1)
    assert (seen[0][:, :, 1] < 0).all()


def callables(vae: VAE) -> tuple[Callable[[Inputs], Floats], Callable[[Inputs], Any]]:
    """Return head and tail of a decoder, run by PyTorch."""
    head, tail = VAEDecoderHead(vae).eval(), VAEDecoderTail(vae).eval()

    def run_head(inputs: Inputs) -> Floats:
        with torch.no_grad():
            features: Floats = head(torch.from_numpy(inputs["latent_sample"])).numpy()
        return features

    def run_tail(inputs: Inputs) -> tuple[Floats, Floats]:
        with torch.no_grad():
            sample, own = tail(**{name: torch.from_numpy(x) for name, x in inputs.items()})
        return sample.numpy(), own.numpy()

    return run_head, run_tail


def whole(vae: VAE, z: Floats) -> Floats:
    with torch.no_grad():
        out: Floats = VAEDecoder(vae).eval()(torch.from_numpy(z)).numpy()
    return out


# The outer quarter of the overlap counts nothing: what a pixel hangs on lies within it. Networks of
# fewer levels see as far in pixels, and so farther in latent pixels.
@pytest.mark.slow
@pytest.mark.parametrize(("multipliers", "overlap"), [((1, 1, 2, 2), 12), ((1, 2, 2), 24)])
def test_tiles_are_exact_given_the_pictures_statistics(
    multipliers: tuple[int, ...], overlap: int
) -> None:
    torch.manual_seed(0)
    config = VAEConfig(width=8, multipliers=multipliers, res_blocks=2, groups=4)
    vae = VAE(config)
    for norm in vae.modules():
        if isinstance(norm, nn.GroupNorm):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
    z = np.random.default_rng(1).normal(size=(2, 4, 28, 40)).astype(np.float32)
    head, tail = callables(vae)
    layers, expected = vae.decoder.fine_norms, whole(vae, z)
    alone = decode_tiled(z, Tiles(28, 40, 28, 40), head, tail, layers, 4)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=2e-5)

    tiles = Tiles(28, 40, 26, 34, overlap)
    # What the first k layers measure is right after k passes.
    found = decode_tiled(z, tiles, head, tail, layers, 4, passes=layers + 1)
    assert len(tiles) == 4
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def published(phases: torch.Tensor) -> torch.Tensor:
    """Undo `kernels.upsample_conv.phase_weight`, or what it does to a bias."""
    if phases.ndim == 1:
        return phases[::4]
    # By phase and tap of one axis: w_0 is alone in one, w_2 in another, w_0 + w_1 in a third.
    taps = torch.tensor(
        [[[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]
    )
    parts = phases.unflatten(0, (-1, 2, 2))
    return torch.einsum("oabcij,kai,lbj->ockl", parts, taps, taps)


def trained_vae() -> tuple[VAE, ModelConfig]:
    """Return the VAE of moving shapes with its decoder's weights, read from the graph."""
    bundle = Bundle.open(SHAPES)
    config = ModelConfig.from_dict(bundle.manifest.provenance.config)
    vae = VAE(config.vae).eval()
    graph = onnx_ir.load(bundle.graph("vae_decoder")).graph
    stored = {
        name: torch.from_numpy(np.array(value.const_value.numpy(), np.float32))
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }
    tensors = {name.removesuffix("_float16"): tensor for name, tensor in stored.items()}
    for name in [name for name in tensors if name.endswith("_phases")]:
        tensors[name.removesuffix("_phases")] = published(tensors[name])
    names = {module: name for name, module in vae.named_modules()}
    order: list[str] = []
    norms = [m for m in vae.decoder.modules() if isinstance(m, nn.GroupNorm)]
    hooks = [n.register_forward_pre_hook(lambda m, _: order.append(names[m])) for n in norms]
    with torch.no_grad():
        vae.decode(torch.zeros(1, 4, 2, 2))
    for hook in hooks:
        hook.remove()
    # Scales and biases of normalizations have lost their names, not their order.
    kinds = [node for node in graph if node.op_type == "InstanceNormalization"]
    for name, node in zip(order, kinds, strict=True):
        value = node.outputs[0]
        for kind, operator in (("", "Reshape"), ("weight", "Mul"), ("bias", "Add")):
            (step,) = value.consumers()
            assert step.op_type == operator
            if kind:
                given = step.inputs[1]
                assert given is not None
                tensors[f"{name}.{kind}"] = stored[str(given.name)].flatten()
            (value,) = step.outputs
    state = vae.state_dict()
    decoder = {name: tensors[name] for name in state if not name.startswith(("encoder.", "quant"))}
    vae.load_state_dict(state | decoder)
    return vae, config


def psnr(found: Floats, expected: Floats) -> float:
    """Compare RGB in [-1, 1] as the uint8 pixels that are shown."""
    one, other = (np.clip(np.rint((x + 1) * 127.5), 0, 255) for x in (found, expected))
    return float(10 * np.log10(255**2 / np.square(one - other).mean()))


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 24])
def test_tiles_of_half_the_side_are_45_db_from_the_whole(side: int) -> None:
    """On trained weights, on a video of a moving shape."""
    vae, config = trained_vae()
    down = config.vae.downsampling
    pipeline = TextToVideo.from_bundle(SHAPES, device="cpu")
    video = pipeline("a red circle moving right", frames=4, width=side * down, height=side * down)
    z = video.latents[0].transpose(1, 0, 2, 3)[1:3] / np.float32(config.vae.scaling_factor)
    z = np.ascontiguousarray(z)
    head, tail = callables(vae)
    tiles = Tiles.grid(side, side, 2, 2)
    assert len(tiles) == 4
    assert 2 * tiles.tile_height <= side + OVERLAP
    expected, layers = whole(vae, z), vae.decoder.fine_norms
    groups = config.vae.groups
    one, two, three = (
        psnr(decode_tiled(z, tiles, head, tail, layers, groups, passes), expected)
        for passes in (1, 2, 3)
    )
    assert one < two < three
    assert three >= 45


def test_the_graphs_of_a_bundle_decode_by_tiles(nano_bundle: Path) -> None:
    """Head and tail in ONNX Runtime, over one file of weights, as a bundle lists them."""
    import onnxruntime

    bundle = Bundle.open(nano_bundle)
    metadata = bundle.manifest.tiled
    assert metadata is not None
    layers, groups = metadata.layers, metadata.groups

    def opened(stage: str) -> Any:
        path = bundle.graph(stage, "cpu")
        assert path.parent == bundle.graph("vae_decoder").parent
        assert path.stat().st_size < 200_000
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    head, tail, full = (opened(f"vae_decoder{half}") for half in ("_head", "_tail", ""))
    assert [value.name for value in tail.get_outputs()] == ["sample", "own_statistics"]
    z = np.random.default_rng(0).normal(size=(2, 4, 12, 16)).astype(np.float32)
    (expected,) = full.run(None, {"latent_sample": z})

    def run(tiles: Tiles) -> Floats:
        return decode_tiled(
            z,
            tiles,
            lambda inputs: head.run(None, dict(inputs))[0],
            lambda inputs: tuple(tail.run(None, dict(inputs))),
            layers,
            groups,
            passes=layers + 1,
        )

    np.testing.assert_allclose(run(Tiles(12, 16, 12, 16)), expected, rtol=0, atol=1e-4)
    assert psnr(run(Tiles.grid(12, 16, 1, 2)), expected) >= 55
