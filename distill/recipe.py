"""The built-in model's recipe: its sizes, its world, its training."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hummingbird_edge.distill.world import FULL, SMALL, World
from hummingbird_edge.export.models.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.runtime.manifest import Defaults
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["BUILTIN_RECIPE", "Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a training run is a function of, but its seed."""

    pictures: World
    """What the autoencoder learns to draw; the widest world, so that a later model can share it."""
    world: World
    """What the captions of the generator's clips may say."""
    config: ModelConfig
    """Sizes of the three networks; the vocabulary's size is filled in from the words."""
    autoencoder_steps: int
    generator_steps: int
    clips: int
    """Clips encoded once for the generator."""

    def vocabulary(self) -> Vocabulary:
        """Return CLIP's vocabulary cut down to the words of all captions."""
        texts = {caption for scene in FULL.scenes() for caption in FULL.captions(scene)}
        words = {word.strip(",") for text in texts for word in text.split()}
        return Vocabulary.clip().restricted_to(words)

    def tokenizer(self, folder: Path) -> Tokenizer:
        """Write the vocabulary into `folder/tokenizer` and return its tokenizer."""
        length = self.config.text.context_length
        self.vocabulary().write(folder / "tokenizer", length)
        return Tokenizer(folder / "tokenizer", length)

    def full_config(self) -> ModelConfig:
        """Return the configuration with the vocabulary's size filled in."""
        text = replace(self.config.text, vocab_size=len(self.vocabulary().tokens))
        return replace(self.config, text=text)

    def trained_autoencoder(self, folder: Path) -> VAE:
        """Load the averaged weights of a finished autoencoder run."""
        state = torch.load(folder / "autoencoder.pt", weights_only=True)
        vae = VAE(self.config.vae)
        vae.load_state_dict(state["average"])
        return vae.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


BUILTIN_RECIPE = Recipe(
    pictures=FULL,
    # Eight frames: the temporal convolutions of one block then reach a border from every frame,
    # and nothing else tells a frame its place.
    world=replace(SMALL, frames=8),
    config=ModelConfig(
        text=TextConfig(width=128, layers=4, heads=4),
        # 8 channels a group and more: with 2, normalization wipes out what the text adds.
        unet=UNetConfig(
            width=64,
            multipliers=(1, 2),
            attention_levels=(0,),
            head_width=32,
            initial_heads=4,
            context_width=128,
            groups=8,
        ),
        vae=VAEConfig(width=16, multipliers=(1, 2, 4, 8), res_blocks=1, groups=2),
        prediction_type="v_prediction",
        defaults=Defaults(frames=8, width=64, height=64, steps=4, guidance=7.5, fps=4),
    ),
    autoencoder_steps=2600,
    generator_steps=2400,
    clips=4096,
)
