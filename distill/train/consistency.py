"""Stage 2 of distillation: latent consistency to a few steps, with visual feedback.

For x_t, guided by w, the teacher takes one DDIM step to x_s; the student's clean latents from both
must agree, and the decoded ones must have high rewards:

    L = huber(f(x_t, t, w), sg f(x_s, s, w)) - sum_i a_i reward_i(decode(f(x_t, t, w)), caption)

    f(x, t, w) = c_skip(t) x + c_out(t) x0(x, t, w)

At later sampling steps x_t is no noised clip: it comes from the student's own first guess, which is
less sharp and not always right. Therefore a share of the batches starts from its rollouts (backward
simulation, Yin et al. 2024, arXiv:2405.14867, section 4.5), and the student learns to trust the
caption more than its guess.

Sources: latent consistency distillation with a guidance embedding, Luo et al. 2023
(arXiv:2310.04378), algorithm 1; rewards added to it, T2V-Turbo (arXiv:2405.18750), equation 8,
as in Hummingbird (arXiv:2503.18559); the target is the student itself without a moving average,
Song & Dhariwal 2023 (arXiv:2310.14189), section 3.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from hummingbird_edge.distill.data.batches import Batches, draw_fps
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.train.diffusion import Diffusion, predict
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.reward import Reward
from hummingbird_edge.distill.train.sampling import embed_guidance, guide
from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["ConsistencyRecipe", "ConsistencyStage"]


@dataclass(frozen=True, slots=True)
class ConsistencyRecipe:
    """Weights of the losses of stage 2, and its guidance."""

    guidance: tuple[float, float] = (5.0, 15.0)
    """Range of w; a student without a guidance embedding is taught the middle."""
    huber: float = 0.001
    """The Huber loss is quadratic below about this difference."""
    first_share: float = 0.5
    """Share of the draws at the last timestep."""
    reward_clips: int = 4
    """Clips of a batch that are decoded and rewarded."""
    task_weight: float = 0.0
    """Weight of the same Huber loss against the clip itself."""
    simulated_share: float = 0.0
    """Share of the batches whose later timesteps start from the student's own rollout."""
    sampling_steps: int = 4
    """Steps of that rollout."""

    def __post_init__(self) -> None:
        low, high = self.guidance
        if not 0 <= low <= high:
            raise RequestError(f"the guidance range is {low:g} to {high:g}: give 0 <= low <= high")


class ConsistencyStage(Stage[UNet]):
    """The loss of a student's U-Net; `rewards` is a weight for each reward's name."""

    def __init__(
        self,
        teacher: Model,
        student: UNet,
        clips: Clips,
        rewards: Mapping[str, tuple[float, Reward]],
        recipe: ConsistencyRecipe,
        batch: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.model = teacher.frozen(device)
        self.trained = student.to(device).requires_grad_(True)
        # The student starts from pure noise, whatever the spacing of its teacher's timesteps.
        self.diffusion = Diffusion(
            replace(teacher.config.sampler(), method="lcm", spacing="trailing")
        )
        self.batches = Batches(clips, teacher.tokenizer, device)
        self.empty = teacher.ids([""]).to(device)
        sampler = self.diffusion.sampler
        self.grid = torch.tensor([*sampler.timesteps(sampler.grid_steps), -1])
        self.stride = sampler.train_steps // sampler.grid_steps
        self.rewards, self.recipe, self.batch, self.device = rewards, recipe, batch, device

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Return `consistency`, one entry a reward (mean, higher is better) and the `loss`."""
        count, device, recipe, diffusion = self.batch, self.device, self.recipe, self.diffusion
        batch = self.batches.draw(count, generator)
        index = torch.randint(1, len(self.grid) - 1, (count,), generator=generator)
        index[torch.rand(count, generator=generator) < recipe.first_share] = 0
        t, s = self.grid[index].to(device), self.grid[index + 1].to(device)
        noise = torch.randn(batch.x0.shape, generator=generator).to(device)
        fps = draw_fps(count, generator).to(device)
        w, cond = self._draw_guidance(count, generator)
        x_t = diffusion.noised(batch.x0, noise, t, torch.ones(1, device=device))
        with torch.no_grad():
            context = self.model.text(batch.ids)
            if torch.rand((), generator=generator) < recipe.simulated_share:
                later = (index > 0).to(device)
                x_own, t_own = self._roll_out(context, cond, fps, noise, generator)
                x_t = torch.where(later.view(-1, 1, 1, 1, 1), x_own, x_t)
                t, s = torch.where(later, t_own, t), torch.where(later, t_own - self.stride, s)
            x_s = self._teacher_step(x_t, t, s, context, w, fps)
            target = self._clean(x_s, s, context, cond, fps)
        denoised = self._clean(x_t, t, context, cond, fps)
        losses = {"consistency": _huber(denoised - target, recipe.huber)}
        loss = losses["consistency"]
        if recipe.task_weight:
            losses["task"] = _huber(denoised - batch.x0, recipe.huber)
            loss = loss + recipe.task_weight * losses["task"]
        if self.rewards:
            some = slice(0, recipe.reward_clips)
            frames = (self.model.decode(denoised[some]) + 1) / 2
            for name, (weight, reward) in self.rewards.items():
                losses[name] = reward(frames, batch.captions[some]).mean()
                loss = loss - weight * losses[name]
        return {"loss": loss, **losses}

    def _draw_guidance(
        self, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return w (B, 1, 1, 1, 1) and its embedding (B, G), or None for a student without."""
        low, high = self.recipe.guidance
        width = self.trained.config.guidance_width
        if width is None:
            return torch.full((count, 1, 1, 1, 1), (low + high) / 2, device=self.device), None
        w = low + (high - low) * torch.rand(count, generator=generator)
        embedded = embed_guidance(w.tolist(), width).to(self.device)
        return w.view(-1, 1, 1, 1, 1).to(self.device), embedded

    def _roll_out(
        self,
        context: torch.Tensor,
        cond: torch.Tensor | None,
        fps: torch.Tensor,
        noise: torch.Tensor,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample from pure noise down to a later step, as videos are made; returns x_t and t."""
        timesteps = self.diffusion.sampler.timesteps(self.recipe.sampling_steps)
        last = int(torch.randint(1, len(timesteps), (), generator=generator))
        x_t = torch.randn(noise.shape, generator=generator).to(self.device)
        for now, later in pairwise(timesteps[: last + 1]):
            t = torch.full((len(x_t),), now, device=self.device)
            fresh = torch.randn(noise.shape, generator=generator).to(self.device)
            alpha, sigma = self.diffusion.scales(torch.full_like(t, later))
            x_t = alpha * self._clean(x_t, t, context, cond, fps) + sigma * fresh
        return x_t, torch.full((len(x_t),), timesteps[last], device=self.device)

    def _teacher_step(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        s: torch.Tensor,
        context: torch.Tensor,
        w: torch.Tensor,
        fps: torch.Tensor,
    ) -> torch.Tensor:
        """Return x_s after one guided DDIM step; s = -1 is the clean end."""
        teacher, diffusion = self.model.unet, self.diffusion
        nothing = self.model.text(self.empty).expand(len(x_t), -1, -1)
        conditional = predict(teacher, x_t, t, context, None, fps)
        unconditional = predict(teacher, x_t, t, nothing, None, fps)
        x0 = diffusion.predict_x0(x_t, guide(conditional, unconditional, w), t)
        stepped = diffusion.ddim(x_t, x0, t, s.clamp(min=0))
        return torch.where((s < 0).view(-1, 1, 1, 1, 1), x0, stepped)

    def _clean(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        context: torch.Tensor,
        cond: torch.Tensor | None,
        fps: torch.Tensor,
    ) -> torch.Tensor:
        """Return the consistency function's value, at t = -1 x itself."""
        known = t.clamp(min=0)
        output = predict(self.trained, x, known, context, cond, fps)
        c_skip, c_out = self.diffusion.boundary(known)
        value = c_skip * x + c_out * self.diffusion.predict_x0(x, output, known)
        return torch.where((t < 0).view(-1, 1, 1, 1, 1), x, value)


def _huber(difference: torch.Tensor, c: float) -> torch.Tensor:
    """Return the mean pseudo-Huber loss (arXiv:2310.14189, equation 8)."""
    return ((difference.square() + c * c).sqrt() - c).mean()
