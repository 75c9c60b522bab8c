"""Stage 2: the text encoder and the U-Net, trained together on latents of captioned clips.

Five choices make a small model learn this on a CPU:

- At t = 999 the input is pure noise, as it is when a video is made. The schedule itself would
  leave alpha_bar = 0.0047 of the clip, and over a clip's thousands of numbers that is enough for
  the network to read the answer from its input and to ignore the text.
- Half the draws or more are at t = 999, most others at the three later steps of the 4-step sampler:
  the first step is a plain regression from text to video, which the captions all but determine.
- For the first third of the training that noise is turned down (`QUIET_SHARE`): which way
  to move is a product of caption and time, and full noise hides both.
- The text encoder first learns to name every attribute of a caption, and goes on naming them.
- The network predicts v (Salimans & Ho 2022, arXiv:2202.00512): noise prediction would multiply its
  errors by 15 at t = 999.

Guidance and frame rate are drawn at random and mean nothing here: the model learns to ignore both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from hummingbird_edge.distill.judge import judge, score
from hummingbird_edge.distill.run import Average, Run, cosine_rate
from hummingbird_edge.distill.world import (
    Scene,
    World,
    is_held_out,
    render,
    sample_held_out,
    sample_training,
)
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.sampler import Sampler, guidance_embedding
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Generator", "LatentClips", "train_generator"]

READING_STEPS = 300
READING_WEIGHT = 0.05
QUIET_SHARE = 0.35
"""The part of the training in which the noise at t = 999 is turned down to between none and all of
itself: which way to move is a product of caption and time, and full noise hides both at first."""


class Generator(torch.nn.Module):
    """The two networks that are trained together, and a reader that is dropped afterwards.

    The reader names each attribute of the scene from the mean hidden state. Without it the text
    encoder loses the motion: pictures pay for words of motion only once frames know their time.
    """

    def __init__(self, config: ModelConfig, world: World) -> None:
        super().__init__()
        self.text = TextEncoder(config.text)
        self.unet = UNet(config.unet)
        self.reader = torch.nn.ModuleDict(
            {
                name: torch.nn.Linear(config.text.width, len(words))
                for name, words in vocabulary(world).items()
            }
        )

    def reading_loss(
        self, hidden: torch.Tensor, attributes: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the mean cross-entropy of naming `attributes`, (B,) int64 each."""
        mean = hidden.float().mean(1)
        losses = [cross_entropy(self.reader[name](mean), x) for name, x in attributes.items()]
        return torch.stack(losses).mean()

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        ids: torch.Tensor,
        guidance: torch.Tensor,
        fps: torch.Tensor,
    ) -> torch.Tensor:
        """Predict v, shaped like `latents` (B, 4, T, h, w), for captions `ids` (B, 77)."""
        prediction: torch.Tensor = self.unet(latents, timestep, self.text(ids), guidance, fps)
        return prediction


def vocabulary(world: World) -> dict[str, tuple[str, ...]]:
    """Return what each attribute of a scene may be."""
    return {
        "colour": world.colours,
        "shape": world.shapes,
        "size": world.sizes,
        "motion": world.motions,
        "background": world.backgrounds,
    }


def name_attributes(scenes: Sequence[Scene], world: World) -> dict[str, torch.Tensor]:
    """Return the index of each scene's attributes, (B,) int64 each."""
    return {
        name: torch.tensor([words.index(getattr(scene, name)) for scene in scenes])
        for name, words in vocabulary(world).items()
    }


@dataclass(frozen=True)
class LatentClips:
    """Clips encoded once: drawing and encoding anew would cost a fifth of the training time."""

    scenes: Sequence[Scene]
    latents: torch.Tensor
    """(N, 4, T, h, w) bfloat16, scaled to unit variance."""
    scaling_factor: float
    """What the VAE's latents were multiplied by."""

    @classmethod
    @torch.no_grad()
    def encode(cls, vae: VAE, world: World, count: int, seed: int) -> "LatentClips":
        """Draw `count` clips and encode them, 16 clips at a time."""
        generator = torch.Generator().manual_seed(seed)
        scenes = [scene for scene, _ in sample_training(world, count, generator)]
        parts = []
        for start in range(0, count, 16):
            clips = render(scenes[start : start + 16], world, generator) * 2 - 1
            frames = clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                mean = vae.encode(frames).chunk(2, dim=1)[0]
            parts.append(mean.unflatten(0, clips.shape[:2]).transpose(1, 2).bfloat16())
        latents = torch.cat(parts)
        factor = 1 / latents.float().std().item()
        return cls(scenes, (latents.float() * factor).bfloat16(), factor)


def draw_timesteps(
    count: int, sampler: Sampler, first_share: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw (count,) timesteps: `first_share` at 999, most others at the 4-step ones."""
    few = torch.tensor(sampler.timesteps(4)[1:])
    grid = torch.tensor(sampler.timesteps(sampler.grid_steps))
    kind = torch.rand(count, generator=generator)
    some = few[torch.randint(len(few), (count,), generator=generator)]
    anywhere = grid[torch.randint(len(grid), (count,), generator=generator)]
    first = torch.full((count,), grid.max().item())
    elsewhere = torch.where(kind < first_share + 0.7 * (1 - first_share), some, anywhere)
    return torch.where(kind < first_share, first, elsewhere).long()


def noisy(
    x0: torch.Tensor, t: torch.Tensor, sampler: Sampler, noise: torch.Tensor, loudness: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x_t and the v from which the sampler recovers x0.

    At the last timestep x_t is noise alone, times `loudness` (B, 1, 1, 1, 1).
    """
    alpha_bar = torch.from_numpy(sampler.alpha_bar)[t].view(-1, 1, 1, 1, 1)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    is_last = (t == sampler.train_steps - 1).view(-1, 1, 1, 1, 1)
    x_t = torch.where(is_last, loudness * noise, alpha * x0 + sigma * noise)
    return x_t, (alpha * x_t - x0) / sigma


class Captions:
    """The training captions of each scene, as token ids."""

    def __init__(self, world: World, tokenizer: Tokenizer) -> None:
        self.ids = {
            scene: np.stack([tokenizer(c).ids for c in world.captions(scene) if not is_held_out(c)])
            for scene in world.scenes()
        }

    def sample(self, scenes: Sequence[Scene], generator: torch.Generator) -> torch.Tensor:
        """Draw a caption for each scene, (B, 77) int64."""
        picks = torch.rand(len(scenes), generator=generator).tolist()
        rows = [self.ids[s][int(u * len(self.ids[s]))] for s, u in zip(scenes, picks, strict=True)]
        return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def generate(
    model: Generator, vae: VAE, ids: torch.Tensor, shape: torch.Size, factor: float, seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Make one clip for each caption in 4 steps: (B, T, H, W, 3) uint8."""
    draw = np.random.default_rng(seed)
    sampler = Sampler(prediction_type="v_prediction")
    count = len(ids)
    x_t = draw.standard_normal((count, *shape), np.float32)
    cond = torch.from_numpy(guidance_embedding(7.5, 256)).expand(count, -1)
    fps = torch.full((count,), 8)
    denoised = x_t
    for step in sampler.steps(4):
        t = torch.full((count,), step.t)
        output = model(torch.from_numpy(x_t), t, ids, cond, fps).float().numpy()
        x_t, denoised = step(x_t, output, draw.standard_normal(x_t.shape, np.float32))
    latents = torch.from_numpy(denoised).transpose(1, 2).flatten(0, 1) / factor
    with torch.autocast("cpu", torch.bfloat16):
        parts = [vae.decode(part).float() for part in latents.split(64)]
    frames = torch.cat(parts).unflatten(0, (count, -1))
    pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.permute(0, 1, 3, 4, 2).numpy()


def accuracy(
    model: Generator, vae: VAE, world: World, tokenizer: Tokenizer, shape: torch.Size, factor: float
) -> dict[str, float]:
    """Judge one 4-step clip of each of 48 held-out captions: the share right, per attribute."""
    pairs = sample_held_out(world, 48, seed=1)
    ids = torch.from_numpy(np.stack([tokenizer(caption).ids for _, caption in pairs]))
    with sdpa_kernel(SDPBackend.MATH):
        clips = generate(model, vae, ids, shape, factor, seed=0)
    rows = [
        score(judge(clip), {name: getattr(scene, name) for name in Scene.__slots__})
        for clip, (scene, _) in zip(clips, pairs, strict=True)
    ]
    return {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}


def train_generator(
    folder: Path,
    world: World,
    config: ModelConfig,
    vae: VAE,
    tokenizer: Tokenizer,
    steps: int,
    batch: int = 12,
    peak_rate: float = 1e-3,
    clips: int = 4096,
    seed: int = 0,
) -> None:
    """Train until `steps`, going on from the run's checkpoint; logs, judges and saves."""
    run = Run(folder, "generator")
    torch.manual_seed(seed)
    model = Generator(config, world)
    average, done = Average(model), 0
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.state, done = state["average"], state["step"]
    data = LatentClips.encode(vae, world, clips, seed)
    run.log(step=done, clips=clips, scaling_factor=round(data.scaling_factor, 5))
    captions, sampler = Captions(world, tokenizer), Sampler(prediction_type="v_prediction")
    generator = torch.Generator().manual_seed(seed * 1_000_003 + done)
    if done == 0:
        accuracy_of_reading = learn_to_read(model, captions, world, generator)
        run.log(step=0, **accuracy_of_reading)
    total = 0.0
    for step in range(done, steps):
        rows = torch.randint(len(data.scenes), (batch,), generator=generator).tolist()
        scenes = [data.scenes[row] for row in rows]
        ids = captions.sample(scenes, generator)
        optimizer.param_groups[0]["lr"] = cosine_rate(step, steps, peak_rate)
        is_quiet = step < QUIET_SHARE * steps
        batch_of = Batch(data.latents[rows].float(), ids, name_attributes(scenes, world))
        loss = loss_of(model, batch_of, sampler, is_quiet, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step)
        total += loss.item()
        if (step + 1) % 100 == 0:
            run.log(step=step + 1, loss=round(total / 100, 5))
            total = 0.0
        if (step + 1) % 500 == 0 or step + 1 == steps:
            averaged = Generator(config, world)
            averaged.load_state_dict(average.state)
            shape = data.latents.shape[1:]
            scores = accuracy(averaged, vae, world, tokenizer, shape, data.scaling_factor)
            run.log(step=step + 1, **scores)
            run.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.state,
                    "scaling_factor": data.scaling_factor,
                    "step": step + 1,
                }
            )


@dataclass(frozen=True)
class Batch:
    """What one step trains on."""

    x0: torch.Tensor
    """(B, C, T, h, w) float32 scaled latents."""
    ids: torch.Tensor
    """(B, 77) int64 captions."""
    attributes: Mapping[str, torch.Tensor]
    """(B,) int64 each: what the captions say."""


def learn_to_read(
    model: Generator, captions: "Captions", world: World, generator: torch.Generator
) -> dict[str, float]:
    """Train the text encoder alone to name every attribute; returns its last batches' accuracy."""
    optimizer = torch.optim.AdamW([*model.text.parameters(), *model.reader.parameters()], 1e-3)
    right: dict[str, list[float]] = {name: [] for name in vocabulary(world)}
    for _ in range(READING_STEPS):
        scenes = [scene for scene, _ in sample_training(world, 64, generator)]
        attributes = name_attributes(scenes, world)
        hidden = model.text(captions.sample(scenes, generator))
        loss = model.reading_loss(hidden, attributes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.text.parameters(), 1.0)
        optimizer.step()
        for name, found in right.items():
            guesses = model.reader[name](hidden.mean(1)).argmax(1)
            found.append(guesses.eq(attributes[name]).float().mean().item())
    return {f"{name}_read": round(float(np.mean(found[-10:])), 3) for name, found in right.items()}


def loss_of(
    model: Generator,
    batch: Batch,
    sampler: Sampler,
    is_quiet: bool,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return the mean squared error of v at drawn timesteps, plus a little of the reading loss."""
    count = len(batch.x0)
    t = draw_timesteps(count, sampler, 0.8 if is_quiet else 0.5, generator)
    loudness = torch.rand(count, 1, 1, 1, 1, generator=generator) if is_quiet else torch.ones(1)
    noise = torch.randn(batch.x0.shape, generator=generator)
    x_t, v = noisy(batch.x0, t, sampler, noise, loudness)
    width = model.unet.config.guidance_width or 0
    scales = (torch.rand(count, generator=generator) * 15).tolist()
    guidance = torch.from_numpy(np.concatenate([guidance_embedding(w, width) for w in scales]))
    fps = torch.randint(4, 25, (count,), generator=generator)
    # The fused attention's backward pass is slow on short sequences.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        hidden = model.text(batch.ids)
        prediction = model.unet(x_t, t, hidden, guidance, fps)
    reading = model.reading_loss(hidden, batch.attributes)
    return (prediction.float() - v).square().mean() + READING_WEIGHT * reading
