"""The teacher: text encoder and U-Net of VideoCrafter2's shape, trained on captioned clips.

What makes a small one trainable on a CPU:

- Half the draws or more are at t = 999 (`diffusion`): the first step is a plain regression from
  text to video, and a caption of the shapes world nearly determines its clip.
- At first that noise is scaled down (`QUIET_STEPS`).
- The text encoder is trained to name attributes before the U-Net trains, and meanwhile (`reader`).
- The network predicts v (Salimans & Ho 2022, arXiv:2202.00512): noise prediction would multiply its
  errors by 15 at t = 999.
- One caption in ten is dropped, for classifier-free guidance (Ho & Salimans 2022,
  arXiv:2207.12598).

The frame rate is drawn at random, and the model learns to ignore it.
"""

from collections.abc import Mapping

import torch
from torch import nn

from hummingbird_edge.distill.data.batches import Batches, draw_fps
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.train.diffusion import Diffusion, predict
from hummingbird_edge.distill.train.reader import Lessons, Reader, learn_to_read
from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.distill.world.shapes.scene import World
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["TeacherStage"]

READING_WEIGHT = 0.05
DROPPED_CAPTIONS = 0.1
QUIET_STEPS = 1050
"""The first steps, in which the noise at t = 999 is scaled by a random factor from 0 to 1: a motion
depends on caption and time together, and full noise hides both at first."""


class Learner(nn.Module):
    """What is trained: text encoder, U-Net, and a reader that is dropped afterwards."""

    def __init__(self, config: ModelConfig, world: World) -> None:
        super().__init__()
        self.text = TextEncoder(config.text)
        self.unet = UNet(config.unet)
        self.reader = Reader(config.text.width, world)


class TeacherStage(Stage[Learner]):
    """The loss of denoising, plus a little of that of naming the caption's attributes."""

    def __init__(
        self,
        config: ModelConfig,
        world: World,
        clips: Clips,
        tokenizer: Tokenizer,
        batch: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.trained = Learner(config, world).to(device)
        self.diffusion = Diffusion(config.sampler())
        self.batches = Batches(clips, tokenizer, device)
        self.lessons = Lessons(world, tokenizer)
        self.empty = torch.from_numpy(tokenizer("").ids).to(device)
        self.batch, self.device = batch, device

    def learn_to_read(self, generator: torch.Generator) -> dict[str, float]:
        """Teach the text encoder its words; returns the share of each attribute it names right."""
        return learn_to_read(self.trained.text, self.trained.reader, self.lessons, generator)

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Return `denoise` (mean squared error of the prediction), `read` and their `loss`."""
        count, device, diffusion = self.batch, self.device, self.diffusion
        is_quiet = step < QUIET_STEPS
        x0, ids = (batch := self.batches.draw(count, generator)).x0, batch.ids
        is_dropped = torch.rand(count, 1, generator=generator) < DROPPED_CAPTIONS
        ids = torch.where(is_dropped.to(device), self.empty, ids)
        t = diffusion.draw_timesteps(count, 0.8 if is_quiet else 0.5, generator).to(device)
        loudness = torch.rand(count, 1, 1, 1, 1, generator=generator) if is_quiet else torch.ones(1)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        fps = draw_fps(count, generator).to(device)
        questions, answers = self.lessons.draw(count, generator)
        x_t = diffusion.noised(x0, noise, t, loudness.to(device))
        with mixed_precision(device):
            hidden = self.trained.text(torch.cat([ids, questions.to(device)]))
        output = predict(self.trained.unet, x_t, t, hidden[:count], None, fps)
        denoise = (output - diffusion.target(x0, noise, x_t, t)).square().mean()
        read = self.trained.reader.loss(
            hidden[count:], {name: x.to(device) for name, x in answers.items()}
        )
        return {"loss": denoise + READING_WEIGHT * read, "denoise": denoise, "read": read}
