"""LoRA: an adapter is trained on a user's clips, and merged it gives what it gave unmerged."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.train.lora import LoraStage, train_lora
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.training import generator_of
from hummingbird_edge.distill.world.shapes.captions import words
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import Scene, World
from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.lora import Adapter, MergedWeights
from hummingbird_edge.export.models.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.export.weights import CheckpointWeights
from hummingbird_edge.runtime.errors import CheckpointError
from hummingbird_edge.runtime.media.video import write_video
from hummingbird_edge.runtime.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]

WORLD = World(resolution=16, frames=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Vocabulary.clip().restricted_to(words()).write(folder / "words", 77)
    tokenizer = Tokenizer(folder / "words")
    config = ModelConfig(
        text=TextConfig(tokenizer.vocabulary_size, width=16, layers=2, heads=2),
        unet=UNetConfig(
            width=16,
            multipliers=(1,),
            attention_levels=(0,),
            head_width=8,
            initial_heads=2,
            context_width=16,
            groups=2,
        ),
        vae=VAEConfig(width=8, multipliers=(1, 1), res_blocks=1, groups=2),
        prediction_type="v_prediction",
    )
    torch.manual_seed(0)
    networks = TextEncoder(config.text), UNet(config.unet), VAE(config.vae)
    Model(config, *networks, tokenizer).write(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def clips(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clips.safetensors"
    read = Model.read(model)
    Clips.drawn(read.vae, WORLD, 16, 49, read.config.vae.scaling_factor).write(path)
    return path


@pytest.fixture(scope="module")
def adapter(model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    train_lora(model, clips, folder, steps=3, rank=2, seed=0)
    return folder


def test_only_the_adapter_is_trained(model: Path, clips: Path) -> None:
    before = Model.read(model)
    stage = LoraStage(before, Clips.read(clips), 2, torch.device("cpu"))
    assert all("lora_" in name for name in stage.trained)
    stage(0, generator_of(0, 0, 0))["loss"].backward()
    grads = [p for p in stage.parameters() if p.grad is not None]
    assert {id(p) for p in grads} == {id(p) for p in stage.trained.parameters()}


def test_training_makes_the_users_clips_likelier(model: Path, clips: Path, tmp_path: Path) -> None:
    train_lora(model, clips, tmp_path, steps=60, rank=4, seed=0)
    entries = [
        json.loads(line)
        for line in (tmp_path / "lora.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses[-1] < losses[0]


def test_merged_is_what_was_trained(model: Path, clips: Path, adapter: Path) -> None:
    from peft import PeftModel

    config = Model.read(model).config
    weights = CheckpointWeights(read_checkpoint(model / "model.safetensors"))
    plain = weights.load("unet", config)
    merged = MergedWeights(weights, Adapter.read(adapter)).load("unet", config)
    adapted = PeftModel.from_pretrained(weights.load("unet", config), str(adapter))
    draw = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(1, 4, 3, 8, 8, generator=draw),
        torch.tensor([519]),
        torch.randn(1, 77, 16, generator=draw),
        torch.randn(1, 256, generator=draw),
    )
    with torch.no_grad():
        found, expected, before = merged(*inputs), adapted(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - before).abs().max() > 1e-5


def test_merging_leaves_the_checkpoint_alone(model: Path, adapter: Path) -> None:
    file = model / "model.safetensors"
    before = file.read_bytes()
    weights = MergedWeights(CheckpointWeights(read_checkpoint(file)), Adapter.read(adapter))
    weights.load("unet", Model.read(model).config)
    assert file.read_bytes() == before
    assert set(weights.provenance()) == {"source", "source_sha256", "lora", "lora_sha256"}


def test_an_adapter_of_another_model_is_refused(adapter: Path) -> None:
    other = UNet(UNetConfig(width=32, multipliers=(1,), attention_levels=(0,), head_width=8,
                            initial_heads=2, context_width=16, groups=2))  # fmt: skip
    with pytest.raises(CheckpointError, match="trained on another model"):
        Adapter.read(adapter).merge(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "does not state rank and alpha"),
        ({"lora_alpha": None}, "does not state rank and alpha"),
        ({"use_dora": True}, "a variant of LoRA"),
    ],
)
def test_damaged_adapters_are_refused(
    adapter: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    metadata = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter_config.json").write_text(json.dumps({**metadata, **change}))
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=message):
        Adapter.read(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"it has no adapter_config.json"):
        Adapter.read(tmp_path)


def test_a_users_videos_become_a_bundle(hb_forked: Command, model: Path, tmp_path: Path) -> None:
    videos, run = tmp_path / "videos", tmp_path / "run"
    videos.mkdir()
    world = World(resolution=64, frames=16)
    for name, colour in (("a", "red"), ("b", "blue")):
        scene = Scene.of(colour, "star", "large", "right", "black")
        clip = render([scene], world, torch.Generator().manual_seed(0))[0]
        write_video(videos / f"{name}.mp4", (clip * 255).byte().permute(0, 2, 3, 1).numpy(), 8, {})
        (videos / f"{name}.txt").write_text(f"a {colour} star moving right", encoding="utf-8")
    small, exact = ("--frames", 4, "--size", "16x16"), ("--precision", "fp32")
    commands: list[tuple[object, ...]] = [
        ("hb-distill", "curate", videos, tmp_path / "curated"),
        ("hb-distill", "clips", run, "--videos", tmp_path / "curated", "--model", model, *small),
        ("hb-distill", "lora", model, run / "clips.safetensors", tmp_path / "lora", "--steps", 2),
        ("hb-export", "build", model, tmp_path / "bundle", "--lora", tmp_path / "lora", *exact),
        ("hb-run", "a red star", "--bundle", tmp_path / "bundle", *small, "-o", tmp_path / "a.mp4"),
    ]
    for command in commands:
        done = hb_forked(*command)
        assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "bundle" / "hummingbird.json").read_text(encoding="utf-8"))
    assert "lora_sha256" in manifest["provenance"]
    done = hb_forked("hb-distill", *commands[1][1:-1], "17x16")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is there already" in done.stderr
    elsewhere = ("clips", tmp_path / "other", "--videos", tmp_path / "curated", "--model", model)
    for options, message in (
        (("--frames", 4, "--size", "17x16"), "4 frames of 17x16 do not fit the model"),
        (("--frames", 4, "--size", "0x16"), "4 frames of 0x16 do not fit the model"),
        (("--frames", 40, "--size", "16x16"), "16 frames, 40 are needed: choose fewer --frames"),
    ):
        done = hb_forked("hb-distill", *elsewhere, *options)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "curated" / "kept.jsonl").write_text(
        '{"file": "a", "captions": "abc"}', encoding="utf-8"
    )
    done = hb_forked("hb-distill", *elsewhere)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = hb_forked("hb-distill", "clips", tmp_path / "other", "--frames", 4)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "other").exists()


def test_clips_of_another_model_are_refused(model: Path, clips: Path, tmp_path: Path) -> None:
    known = Clips.read(clips)
    other = Clips(known.latents[:, :3], known.captions, known.scaling_factor)
    other.write(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="encode them with this model"):
        train_lora(model, tmp_path / "other.safetensors", tmp_path / "out", 1, 2, 0)
    rescaled = Clips(known.latents, known.captions, 2 * known.scaling_factor)
    rescaled.write(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="latents are scaled by"):
        train_lora(model, tmp_path / "other.safetensors", tmp_path / "out", 1, 2, 0)
