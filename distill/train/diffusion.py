"""The forward process, and how training draws from it.

At t = 999 the input is pure noise, as in sampling. The schedule alone would leave a share of
alpha_bar = 0.0047 of the clip, enough for a network to read the clip from its input and to ignore
the text (Lin et al. 2024, arXiv:2305.08891).
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.kernels.attention import attention_in_products
from hummingbird_edge.runtime.sampler import Sampler

__all__ = ["Diffusion", "predict"]


@dataclass(frozen=True)
class Diffusion:
    """The sampler's schedule in PyTorch; tensors are (B, C, T, h, w), timesteps (B,) int64."""

    sampler: Sampler

    @property
    def last(self) -> int:
        """The noisiest timestep."""
        return self.sampler.train_steps - 1

    def scales(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (alpha, sigma), how much of signal and noise x_t holds, (B, 1, 1, 1, 1) each."""
        table = torch.from_numpy(self.sampler.alpha_bar).to(t.device)
        alpha_bar = table[t].view(-1, 1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def noised(
        self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, loudness: torch.Tensor
    ) -> torch.Tensor:
        """Return x_t; at the last timestep noise alone, times `loudness` (B, 1, 1, 1, 1)."""
        alpha, sigma = self.scales(t)
        return torch.where(self.is_pure(t), loudness * noise, alpha * x0 + sigma * noise)

    def is_pure(self, t: torch.Tensor) -> torch.Tensor:
        """Tell where x_t is noise alone, (B, 1, 1, 1, 1); never for a model that predicts noise:
        x_t would be the answer."""
        is_last = (t == self.last).view(-1, 1, 1, 1, 1)
        return is_last & (self.sampler.prediction_type != "epsilon")

    def target(
        self, x0: torch.Tensor, noise: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Return the training target for x_t: `predict_x0` of it is x0."""
        alpha, sigma = self.scales(t)
        match self.sampler.prediction_type:
            case "epsilon":
                return noise
            case "v_prediction":
                return (alpha * x_t - x0) / sigma
            case _:
                return x0

    def predict_x0(self, x_t: torch.Tensor, output: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the x0 that the network's output means."""
        alpha, sigma = self.scales(t)
        match self.sampler.prediction_type:
            case "epsilon":
                return (x_t - sigma * output) / alpha
            case "v_prediction":
                return alpha * x_t - sigma * output
            case _:
                return output

    def ddim(
        self, x_t: torch.Tensor, x0: torch.Tensor, t: torch.Tensor, t_prev: torch.Tensor
    ) -> torch.Tensor:
        """Step from t to t_prev without new noise (Song et al. 2021, arXiv:2010.02502, eq. 12)."""
        alpha, sigma = self.scales(t)
        alpha_prev, sigma_prev = self.scales(t_prev)
        noise = torch.where(self.is_pure(t), x_t, (x_t - alpha * x0) / sigma)
        return alpha_prev * x0 + sigma_prev * noise

    def boundary(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (c_skip, c_out) of the consistency function, (B, 1, 1, 1, 1) each."""
        s = (t * self.sampler.timestep_scaling).float().view(-1, 1, 1, 1, 1)
        total = s.square() + self.sampler.sigma_data**2
        return self.sampler.sigma_data**2 / total, s / total.sqrt()

    def draw_timesteps(
        self, count: int, first_share: float, generator: torch.Generator
    ) -> torch.Tensor:
        """Draw timesteps: `first_share` the last one, the others evenly below it."""
        is_last = torch.rand(count, generator=generator) < first_share
        below = torch.randint(self.last, (count,), generator=generator)
        return torch.where(is_last, self.last, below)


def predict(
    unet: UNet,
    x_t: torch.Tensor,
    t: torch.Tensor,
    context: torch.Tensor,
    cond: torch.Tensor | None,
    fps: torch.Tensor,
) -> torch.Tensor:
    """Run the U-Net in mixed precision; returns float32."""
    lowering = attention_in_products() if x_t.device.type == "cpu" else nullcontext()
    with mixed_precision(x_t.device), lowering:
        output: torch.Tensor = unet(x_t, t, context, cond, fps)
    return output.float()
