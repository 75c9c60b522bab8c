"""A reward for few-step training: how sure a judge is of what the caption asked for.

The judge that rewards is another one than the judge that scores: its own seed, its own clips. A
student that learns to please one is still measured by the other.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.world.cartoons.judge import LOOKS, Judge
from hummingbird_edge.distill.world.cartoons.shots import Shot

__all__ = ["JudgeReward"]

MIN_LOG_PROBABILITY = -4.0
"""A clip that is hopeless gets no gradient: it would pull the others along."""


class JudgeReward:
    """The mean log-probability of noun, ground, path, size and own action, (B,) per clip."""

    def __init__(self, judge: Judge, shots: Mapping[str, Shot]) -> None:
        self.judge, self.shots = judge, shots

    def __call__(self, frames: Tensor, captions: Sequence[str]) -> Tensor:
        """Reward clips (B, T, 3, H, W) in about [0, 1] that `captions` asked for."""
        device = frames.device
        labels = self.judge.labels([self.shots[caption] for caption in captions])
        labels = {**labels, "action": torch.ones(len(captions), dtype=torch.long)}
        chosen = torch.linspace(0, frames.shape[1] - 1, LOOKS, device=device).round().long()
        with mixed_precision(device):
            logits = self.judge(frames[:, chosen].clamp(0, 1))
        sure = [
            getattr(logits, name).float().log_softmax(1).gather(1, label.to(device)[:, None])
            for name, label in labels.items()
        ]
        return torch.cat(sure, 1).clamp(min=MIN_LOG_PROBABILITY).mean(1)
