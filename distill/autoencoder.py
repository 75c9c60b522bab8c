"""Stage 1: the autoencoder, trained on single frames of the world.

Everything later is capped by it, so its loss weighs the object as much as the background: without
the weight, a small star and a small circle cost the same few per mille.
"""

from pathlib import Path

import torch

from hummingbird_edge.distill.run import Average, Run, cosine_rate
from hummingbird_edge.distill.world import World, render, sample_training
from hummingbird_edge.export.models.config import VAEConfig
from hummingbird_edge.export.models.vae import VAE

__all__ = ["train_autoencoder"]


def sample_frames(world: World, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw single frames (N, 3, H, W) in [-1, 1] at random times of random scenes."""
    scenes = [scene for scene, _ in sample_training(world, count, generator)]
    times = torch.rand(count, 1, generator=generator)
    return render(scenes, world, generator, times=times)[:, 0] * 2 - 1


def reconstruction_loss(decoded: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Return the L1 + squared error, the object's pixels weighted up to half of the whole."""
    ground = frames[:, :, :1, :1]
    is_object = ((frames - ground).abs().amax(1, keepdim=True) > 0.05).float()
    share = is_object.mean((2, 3), keepdim=True).clamp(0.02, 0.5)
    weight = is_object / share + (1 - is_object) / (1 - share)
    error = decoded - frames
    return (weight * (error.abs() + error.square())).mean()


def loss_of(model: VAE, frames: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """Return the reconstruction loss plus the weighted divergence from a unit Gaussian."""
    with torch.autocast(frames.device.type, torch.bfloat16):
        mean, log_variance = model.encode(frames).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 10)
        latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        decoded = model.decode(latents).float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return reconstruction_loss(decoded, frames) + kl_weight * divergence


@torch.no_grad()
def measure(model: VAE, world: World) -> dict[str, float]:
    """Return the PSNR over fresh frames, in dB, and the latents' standard deviation."""
    frames = sample_frames(world, 256, torch.Generator().manual_seed(12345))
    mean = torch.cat([model.encode(part).chunk(2, dim=1)[0] for part in frames.split(64)])
    decoded = torch.cat([model.decode(part) for part in mean.split(64)]).clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (decoded - frames).square().mean())
    return {"psnr_db": round(psnr.item(), 2), "latent_std": round(mean.std().item(), 4)}


def train_autoencoder(
    folder: Path,
    world: World,
    config: VAEConfig,
    steps: int,
    batch: int = 32,
    peak_rate: float = 2e-3,
    kl_weight: float = 1e-4,
    seed: int = 0,
) -> None:
    """Train until `steps`, going on from the run's checkpoint; logs and saves every 200 steps."""
    run = Run(folder, "autoencoder")
    torch.manual_seed(seed)
    model = VAE(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average, done = Average(model), 0
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.state, done = state["average"], state["step"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + done)
    total = 0.0
    for step in range(done, steps):
        frames = sample_frames(world, batch, generator).contiguous(
            memory_format=torch.channels_last
        )
        optimizer.param_groups[0]["lr"] = cosine_rate(step, steps, peak_rate)
        loss = loss_of(model, frames, kl_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step)
        total += loss.item()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            averaged = VAE(config)
            averaged.load_state_dict(average.state)
            run.log(step=step + 1, loss=round(total / 200, 5), **measure(averaged, world))
            total = 0.0
            run.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.state,
                    "step": step + 1,
                }
            )
