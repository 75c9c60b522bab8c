"""The cartoons' teacher: it learns to read, then to paint single frames, then to move them.

Frames come first with the temporal layers left out, which costs a sixteenth and shows the text
encoder four times as many nouns. The temporal layers then start as identities, so that nothing that
was learned is lost. Sources: Ho et al. 2022 (arXiv:2204.03458) for images beside video, Blattmann
et al. 2023 (arXiv:2304.08818, section 3.1) for temporal layers on a trained image model.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from hummingbird_edge.distill.cartoons.budget import TimedStage
from hummingbird_edge.distill.cartoons.reading import Lessons, Reader
from hummingbird_edge.distill.data.batches import Batches, draw_fps
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.train.diffusion import Diffusion, predict
from hummingbird_edge.distill.world.cartoons.shots import World
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import TemporalConvBlock, TemporalTransformer, UNet
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Learner", "TeacherStage", "without_time"]

READING_SHARE = 0.03
"""Share of the time in which words alone are learned."""
FRAMES_SHARE = 0.45
"""Share of the time that has passed when clips begin."""
DETAILS_SHARE = 0.7
"""Share after which clips have less noise: things move as they are told to, and lack detail."""
READING_WEIGHT = 0.05
QUESTIONS = 16
"""Captions a step that are read."""
DROPPED_CAPTIONS = 0.1
FRAMES_A_CAPTION = 4
"""Single frames that share a caption: to read one costs as much as to paint half a frame."""
FIRST_SHARE = {"frames": 0.1, "clips": 0.25, "details": 0.1}
"""Share of the draws at t = 999, where a video starts; how a sprite looks is learned below."""
NOISY_SHARE = {"frames": 0.3, "clips": 0.5, "details": 0.15}
"""Share of the others that are drawn above NOISY alone: how things move is decided there."""
NOISY = 500


class Learner(nn.Module):
    """What is trained: text encoder, U-Net, and a reader that is dropped afterwards."""

    def __init__(self, config: ModelConfig, world: World) -> None:
        super().__init__()
        self.text = TextEncoder(config.text)
        self.unet = UNet(config.unet)
        self.reader = Reader(config.text.width, world)
        for layer in temporal_layers(self.unet):
            last = layer.conv4[-1] if isinstance(layer, TemporalConvBlock) else layer.proj_out
            for parameter in last.parameters():
                nn.init.zeros_(parameter)


def temporal_layers(unet: UNet) -> Iterator[TemporalConvBlock | TemporalTransformer]:
    """Go through the layers that mix frames."""
    for module in unet.modules():
        if isinstance(module, (TemporalConvBlock, TemporalTransformer)):
            yield module


@contextmanager
def without_time(unet: UNet) -> Iterator[None]:
    """Leave the layers out that mix frames while the context lasts."""
    layers = list(temporal_layers(unet))
    for layer in layers:
        layer.forward = _identity  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _identity(x: Tensor, *_: object) -> Tensor:
    return x


class TeacherStage(TimedStage[Learner]):
    """The loss of denoising frames, then clips, plus a little of naming what captions say."""

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

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return `denoise`, `read`, the share of captions `named` right, and the `loss`."""
        questions, answers = self.lessons.draw(QUESTIONS, generator)
        answers = {name: x.to(self.device) for name, x in answers.items()}
        with mixed_precision(self.device):
            hidden = self.trained.text(questions.to(self.device))
        read = self.trained.reader.loss(hidden, answers)
        named = self.trained.reader.accuracy(hidden.detach(), answers)
        if self.share < READING_SHARE:
            return {"loss": read, "denoise": torch.zeros_like(read), "read": read, "named": named}
        denoise = self._denoise(self.share < FRAMES_SHARE, generator)
        loss = denoise + READING_WEIGHT * read
        return {"loss": loss, "denoise": denoise, "read": read, "named": named}

    def _denoise(self, is_single: bool, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the prediction, on frames or on clips."""
        device, diffusion = self.device, self.diffusion
        frames = self.batches.latents.shape[2]
        shared = FRAMES_A_CAPTION if is_single else 1
        count = self.batch * frames if is_single else self.batch
        captions = max(1, count // shared)
        count = captions * shared
        batch = self.batches.draw(captions, generator)
        x0 = batch.x0.repeat_interleave(shared, 0)
        if is_single:
            chosen = torch.randint(frames, (count,), generator=generator).to(device)
            x0 = x0[torch.arange(count, device=device), :, chosen][:, :, None]
        is_dropped = torch.rand(captions, 1, generator=generator) < DROPPED_CAPTIONS
        ids = torch.where(is_dropped.to(device), self.empty, batch.ids)
        t = self._draw_timesteps(count, generator).to(device)
        noise = torch.randn(x0.shape, generator=_on(device, generator), device=device)
        fps = draw_fps(count, generator).to(device)
        x_t = diffusion.noised(x0, noise, t, torch.ones(1, device=device))
        with mixed_precision(device):
            context = self.trained.text(ids).repeat_interleave(shared, 0)
        with without_time(self.trained.unet) if is_single else nullcontext():
            output = predict(self.trained.unet, x_t, t, context, None, fps)
        return (output - diffusion.target(x0, noise, x_t, t)).square().mean()

    def _draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps, many of them noisy: there the caption decides (B,) int64."""
        ends = {"frames": FRAMES_SHARE, "clips": DETAILS_SHARE}
        kind = next((name for name, end in ends.items() if self.share < end), "details")
        t = self.diffusion.draw_timesteps(count, FIRST_SHARE[kind], generator)
        is_drawn = torch.rand(count, generator=generator) < NOISY_SHARE[kind]
        is_noisy = is_drawn & (t < self.diffusion.last)
        noisy = torch.randint(NOISY, self.diffusion.last, (count,), generator=generator)
        return torch.where(is_noisy, noisy, t)


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Return a generator of `device` seeded by one of the CPU: large noise is slow to move."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
