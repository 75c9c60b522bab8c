"""Training: runs, goes on where it stopped, and ends in a checkpoint that hb-export reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hummingbird_edge.distill.autoencoder import train_autoencoder
from hummingbird_edge.distill.generator import noisy, train_generator
from hummingbird_edge.distill.published import write_published
from hummingbird_edge.distill.recipe import BUILTIN_RECIPE, Recipe
from hummingbird_edge.distill.run import Run, cosine_rate
from hummingbird_edge.distill.strip import write_strips
from hummingbird_edge.distill.world import World
from hummingbird_edge.export.architecture import read_config
from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.models.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from hummingbird_edge.export.weights import CheckpointWeights
from hummingbird_edge.runtime.errors import CheckpointError
from hummingbird_edge.runtime.sampler import Sampler

WORLD = World(
    colours=("red", "blue"),
    shapes=("circle", "square"),
    sizes=("large",),
    motions=("right", "left"),
    backgrounds=("black",),
    resolution=16,
    frames=4,
)
RECIPE = Recipe(
    pictures=WORLD,
    world=WORLD,
    config=ModelConfig(
        text=TextConfig(width=16, layers=2, heads=2),
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
    ),
    autoencoder_steps=2,
    generator_steps=2,
    clips=16,
)


def log_of(folder: Path, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]


def train(folder: Path, recipe: Recipe) -> None:
    train_generator(
        folder,
        recipe.world,
        recipe.full_config(),
        recipe.trained_autoencoder(folder),
        recipe.tokenizer(folder),
        recipe.generator_steps,
        batch=4,
        clips=recipe.clips,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_autoencoder(folder, WORLD, RECIPE.config.vae, steps=2, batch=4)
    train(folder, RECIPE)
    return folder


def test_training_resumes_where_it_stopped(trained: Path) -> None:
    train_autoencoder(trained, WORLD, RECIPE.config.vae, steps=3, batch=4)
    assert [entry["step"] for entry in log_of(trained, "autoencoder")] == [2, 3]
    train(trained, replace(RECIPE, generator_steps=3))
    state = torch.load(trained / "generator.pt", weights_only=True)
    assert state["step"] == 3
    # Reading is learnt once, at the start.
    assert sum("motion_read" in entry for entry in log_of(trained, "generator")) == 1


def test_published_checkpoint_is_read_back(trained: Path) -> None:
    write_published(trained, RECIPE)
    config = ModelConfig.from_dict(json.loads((trained / "config.json").read_text()))
    assert config.prediction_type == "v_prediction"
    assert config.vae.scaling_factor > 0
    checkpoint = read_checkpoint(trained / "model.safetensors")
    for name in ("text_encoder", "unet", "vae"):
        module = CheckpointWeights(checkpoint).load(name, config)
        assert all(torch.isfinite(p).all() for p in module.parameters())
    with pytest.raises(CheckpointError, match=r"--preset or --config"):
        read_config(checkpoint)


def test_last_timestep_is_noise_alone_and_v_recovers_the_clip() -> None:
    sampler = Sampler(prediction_type="v_prediction")
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 4, 3, 2, 2, generator=draw) for _ in range(2))
    t = torch.tensor([999, 519])
    x_t, v = noisy(x0, t, sampler, noise, torch.ones(1))
    assert torch.equal(x_t[0], noise[0])
    for row, step in enumerate(t.tolist()):
        found = sampler.denoise(x_t[row].numpy(), v[row].numpy(), step)
        np.testing.assert_allclose(found, x0[row].numpy(), atol=1e-5)


def test_recipe_spells_every_caption_in_whole_words() -> None:
    tokens = BUILTIN_RECIPE.vocabulary().tokens
    for word in ("red", "circle", "moving", "background", "upwards", "travelling"):
        assert f"{word}</w>" in tokens
    assert len(tokens) < 1000


def test_rate_warms_up_and_cools_down() -> None:
    rates = [cosine_rate(step, 1000, 1.0) for step in range(1000)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] < 0.02
    assert rates[-1] < 0.001


def test_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    run = Run(tmp_path, "stage")
    assert run.load() is None
    run.save({"step": 1})
    run.save({"step": 2})
    assert run.load() == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["stage.pt"]


def test_strips_show_every_frame(tmp_path: Path) -> None:
    video = np.zeros((3, 8, 8, 3), np.uint8)
    write_strips(tmp_path / "strip.png", [video, video], scale=2, gap=4)
    with Image.open(tmp_path / "strip.png") as image:
        assert image.size == (3 * 12 * 2, 2 * 12 * 2)
