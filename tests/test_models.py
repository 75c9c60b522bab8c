"""The networks: published names, shapes and counts, and the recorded outputs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.export.architecture import preset_of, read_config
from hummingbird_edge.export.checkpoint import Checkpoint, read_checkpoint
from hummingbird_edge.export.models.config import (
    PRESETS,
    ModelConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
)
from hummingbird_edge.export.models.unet import TransformerBlock
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.export.stage import PREFIXES, network
from hummingbird_edge.export.weights import CheckpointWeights
from hummingbird_edge.runtime.errors import CheckpointError, RequestError

DATA = Path(__file__).parent / "data"
NANO = DATA / "nano_07b_merged_all.pt"
CONFIG = ModelConfig(
    text=TextConfig(width=16, layers=3, heads=2),
    unet=UNetConfig(
        width=32, multipliers=(1, 2), attention_levels=(0, 1), head_width=8, context_width=16
    ),
    vae=VAEConfig(width=32, multipliers=(1, 1, 2, 1), res_blocks=1),
)

Golden = dict[str, NDArray[Any]]
Names = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def nano() -> Checkpoint:
    return read_checkpoint(NANO)


@pytest.fixture(scope="module")
def networks(nano: Checkpoint) -> dict[str, nn.Module]:
    weights, config = CheckpointWeights(nano), read_config(nano)
    return {name: weights.load(name, config).eval() for name in PREFIXES}


def on_meta(name: str, config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return network(name, config)


def published(file: str, prefix: str) -> Names:
    """Return the shape of each published tensor, by its name."""
    rows = [
        line.split("\t") for line in (DATA / "keys" / file).read_text(encoding="utf-8").splitlines()
    ]
    assert all(name.startswith(prefix) for name, _, _ in rows)
    return {
        name.removeprefix(prefix): tuple(int(size) for size in shape.split(",") if size)
        for name, shape, _ in rows
    }


def ours(module: nn.Module) -> Names:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def largest_difference(found: torch.Tensor, expected: NDArray[Any]) -> float:
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    return float(np.abs(found.detach().numpy() - expected).max())


@pytest.mark.parametrize("case", ["unet0", "unet1"])
def test_unet_gives_the_recorded_output(
    networks: dict[str, nn.Module], golden: Golden, case: str
) -> None:
    inputs = {
        "sample": golden[f"{case}_sample"],
        "timestep": golden[f"{case}_timestep"],
        "timestep_cond": golden[f"{case}_guidance_embedding"],
        "fps": golden[f"{case}_fps"],
        "encoder_hidden_states": golden["unet_context"],
    }
    with torch.no_grad():
        found = networks["unet"](**{name: torch.from_numpy(a) for name, a in inputs.items()})
    assert largest_difference(found, golden[f"{case}_output"]) < 1e-4


def test_unet_takes_a_batch(networks: dict[str, nn.Module]) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "sample": torch.randn(2, 4, 3, 4, 6, generator=draw),
        "timestep": torch.tensor([999, 279]),
        "timestep_cond": torch.randn(2, 256, generator=draw),
        "fps": torch.tensor([8, 16]),
        "encoder_hidden_states": torch.randn(2, 77, 16, generator=draw),
    }
    with torch.no_grad():
        together = networks["unet"](**inputs)
        for i in range(2):
            alone = networks["unet"](**{name: x[i : i + 1] for name, x in inputs.items()})
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def test_unet_is_told_of_eight_frames_a_second_where_nothing_is_said(
    networks: dict[str, nn.Module], golden: Golden
) -> None:
    inputs = {
        "sample": torch.from_numpy(golden["unet0_sample"]),
        "timestep": torch.from_numpy(golden["unet0_timestep"]),
        "timestep_cond": torch.from_numpy(golden["unet0_guidance_embedding"]),
        "encoder_hidden_states": torch.from_numpy(golden["unet_context"]),
    }
    with torch.no_grad():
        silent, said, other = (
            networks["unet"](**inputs, **fps)
            for fps in ({}, {"fps": torch.tensor([8])}, {"fps": torch.tensor([16])})
        )
    torch.testing.assert_close(silent, said, rtol=0, atol=0)
    assert (silent - other).abs().max() > 1e-4


def test_vae_decodes_and_encodes_as_recorded(
    networks: dict[str, nn.Module], golden: Golden
) -> None:
    vae = networks["vae"]
    assert isinstance(vae, VAE)
    with torch.no_grad():
        decoded = vae.decode(torch.from_numpy(golden["vae_latent"]))
        moments = vae.encode(torch.from_numpy(golden["vae_image"]))
    assert largest_difference(decoded, golden["vae_decoded"]) < 1e-4
    assert largest_difference(moments, golden["vae_moments"]) < 1e-4


def test_text_encoder_gives_the_recorded_states(
    networks: dict[str, nn.Module], golden: Golden
) -> None:
    with torch.no_grad():
        found = networks["text_encoder"](torch.from_numpy(golden["tokens"]))
    assert largest_difference(found, golden["text_hidden"]) < 1e-4


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("hummingbird-0.7b", 772_091_780),
        ("hummingbird-0.9b", 945_209_220),
        ("videocrafter2", 1_413_284_420),
    ],
)
def test_preset_unets_have_the_published_tensors(preset: str, parameters: int) -> None:
    unet = on_meta("unet", PRESETS[preset])
    assert sum(p.numel() for p in unet.parameters()) == parameters
    file = f"unet_{preset.removeprefix('hummingbird-')}.tsv"
    assert ours(unet) == published(file, PREFIXES["unet"])


def test_vae_has_the_published_tensors() -> None:
    vae = on_meta("vae", ModelConfig())
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in vae.get_submodule("decoder").parameters()) == 49_490_179
    assert ours(vae) == published("vae.tsv", PREFIXES["vae"])


def test_text_encoder_has_the_published_tensors_but_the_last_block() -> None:
    names = published("text_encoder.tsv", PREFIXES["text_encoder"])
    assert sum(int(np.prod(shape)) for n, shape in names.items() if n != "attn_mask") == 354_032_641
    unused = {"text_projection", "logit_scale", "attn_mask"}
    used = {
        name: shape
        for name, shape in names.items()
        if not name.startswith("transformer.resblocks.23.") and name not in unused
    }
    assert ours(on_meta("text_encoder", ModelConfig())) == used


def test_configuration_is_read_off_the_checkpoint(nano: Checkpoint) -> None:
    assert read_config(nano) == CONFIG
    assert preset_of(CONFIG) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_published_shapes_are_recognised(preset: str) -> None:
    """A plain state dict tells no head counts, but the published widths do."""
    file = f"unet_{preset.removeprefix('hummingbird-')}.tsv"
    tensors = {
        prefix + name: torch.empty(shape, device="meta")
        for keys, prefix in (
            (file, PREFIXES["unet"]),
            ("vae.tsv", PREFIXES["vae"]),
            ("text_encoder.tsv", PREFIXES["text_encoder"]),
        )
        for name, shape in published(keys, prefix).items()
    }
    assert preset_of(read_config(Checkpoint("published", (), tensors, {}))) == preset


def test_a_plain_state_dict_is_refused_until_it_is_told_its_heads(
    nano: Checkpoint, golden: Golden, tmp_path: Path
) -> None:
    path = tmp_path / "plain.pt"
    torch.save({name: tensor.clone() for name, tensor in nano.tensors.items()}, path)
    plain = read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"text_encoder's num_heads.*--preset or --config$"):
        read_config(plain)
    text_encoder = CheckpointWeights(plain).load("text_encoder", CONFIG)
    with torch.no_grad():
        found = text_encoder(torch.from_numpy(golden["tokens"]))
    assert largest_difference(found, golden["text_hidden"]) < 1e-4


@pytest.mark.parametrize("network_name", PREFIXES)
def test_a_part_of_a_model_is_refused(nano: Checkpoint, network_name: str) -> None:
    rest = {n: t for n, t in nano.tensors.items() if not n.startswith(PREFIXES[network_name])}
    with pytest.raises(CheckpointError, match=f"holds no {network_name} "):
        read_config(Checkpoint("part.pt", (), rest, nano.metadata))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("v", "v_prediction"),
        ("x0", "sample"),
        ("eps", "epsilon"),
    ],
)
def test_the_prediction_is_what_the_module_says(nano: Checkpoint, name: str, found: str) -> None:
    metadata = {**nano.metadata, "parameterization": name}
    assert read_config(Checkpoint("m", (), nano.tensors, metadata)).prediction_type == found


def test_an_unknown_prediction_is_refused(nano: Checkpoint) -> None:
    metadata = {**nano.metadata, "parameterization": "flow"}
    with pytest.raises(CheckpointError, match="predicts 'flow', known are eps, v, x0"):
        read_config(Checkpoint("m", (), nano.tensors, metadata))


@pytest.mark.parametrize("frames", [1, 3])
def test_frames_share_one_context(frames: int) -> None:
    """The text is not repeated a frame, and the numbers are those of repeating it."""
    torch.manual_seed(0)
    block = TransformerBlock(16, 2, 12).eval()
    x, context = torch.randn(2 * frames, 5, 16), torch.randn(2, 7, 12)
    seen: list[torch.Size] = []
    block.attn2.to_k.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.no_grad():
        shared = block(x, context)
        repeated = block(x, context.repeat_interleave(frames, dim=0))
    torch.testing.assert_close(shared, repeated, rtol=0, atol=1e-6)
    assert seen == [(2, 7, 12), (2 * frames, 7, 12)]


def test_configurations_survive_json() -> None:
    for config in (*PRESETS.values(), CONFIG):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"depth": 3}, "unknown entry 'depth'"),
        ({"unet": {"depth": 3}}, "unknown entry 'depth'"),
        ({"unet": 3}, r"got `int` - at `\$.unet`"),
        ({"text": {"layers": "2"}}, r"got `str` - at `\$.text.layers`"),
        ({"text": {"width": 2**40}}, r"<= 65536 - at `\$.text.width`"),
        ({"text": {"layers": 10**9}}, r"<= 512 - at `\$.text.layers`"),
        ({"unet": {"groups": 0}}, r">= 1 - at `\$.unet.groups`"),
        ({"unet": {"multipliers": []}}, r"length >= 1 - at `\$.unet.multipliers`"),
        ({"vae": {"scaling_factor": 10**400}}, r"out of range - at `\$.vae.scaling_factor`"),
        ({"vae": {"scaling_factor": float("nan")}}, r"> 0.0 - at `\$.vae.scaling_factor`"),
        ({"method": ["lcm"]}, r"got `array` - at `\$.method`"),
        ({"defaults": {"frames": 10**9}}, "frames is 1000000000, 1 to 10000 can be"),
        ({"defaults": {"guidance": float("nan")}}, "guidance is nan"),
        ({"unet": {"context_width": 16}}, "reads text of width 16, the text encoder makes 1024"),
        ({"unet": {"latent_channels": 8}}, "has 8 latent channels, the VAE 4"),
        ({"unet": {"width": 100}}, "100 U-Net channels do not divide into 32 groups"),
        ({"unet": {"attention_levels": [4]}}, r"attention levels \(4,\) name a level"),
        ({"vae": {"width": 100}}, "100 VAE channels do not divide into 32 groups"),
        ({"text": {"heads": 3}}, "text width 1024 does not divide into 3 heads"),
        ({"text": {"layers": 1}}, "needs 2 or more layers, got 1"),
        ({"prediction_type": "flow"}, "unknown prediction type 'flow'"),
    ],
)
def test_bad_configurations_are_refused(entries: Mapping[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ModelConfig.from_dict(entries)
