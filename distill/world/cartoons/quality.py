"""How good clips look, whatever they show: three of VBench's dimensions, on a scale of 0 to 1.

VBench (Huang et al. 2024, arXiv:2311.17982) asks large networks whether the subject stays the same,
whether still parts flicker and whether motion is smooth. Here the judge's network sees subject and
ground; a rendered clip shows what can be reached.
"""

import torch
from torch import Tensor
from torch.nn import functional

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.world.cartoons.judge import Judge

__all__ = ["assess"]

FLICKER_SCALE = 0.05
"""A ground that changes this much a frame, of full brightness, scores 0."""
JERK_SCALE = 0.05
"""A centre this far off the middle of its neighbours, in frame sides, scores 0."""
MIN_SHARE = 0.02
"""Share of the sprite in a cell of the mask above which the cell is no ground."""


@torch.no_grad()
def assess(judge: Judge, frames: Tensor) -> dict[str, float]:
    """Return the mean scores of clips (B, T, 3, H, W) in [0, 1]."""
    with mixed_precision(frames.device):
        mask, subject, _ = judge.watch(frames)
    share = mask.sigmoid()
    return {
        "subject consistency": consistency(subject),
        "flicker": stillness(frames, share),
        "smoothness": smoothness(share),
    }


def consistency(subject: Tensor) -> float:
    """Return the mean cosine similarity of each frame's subject to the first and the last one."""
    unit = functional.normalize(subject, dim=-1)
    to_first = (unit[:, 1:] * unit[:, :1]).sum(-1)
    to_last = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    return float((to_first + to_last).mean() / 2)


def stillness(frames: Tensor, share: Tensor) -> float:
    """Return 1 less the mean change of ground that stays ground, over FLICKER_SCALE."""
    # A cell's neighbours may hold the sprite's edge.
    near = functional.max_pool2d(share, 3, stride=1, padding=1)
    ground = functional.interpolate((near < MIN_SHARE).float(), size=frames.shape[-2:])
    still = ground[:, 1:] * ground[:, :-1]
    if not still.any():
        return 0.0
    change = (frames.diff(dim=1).abs().mean(2) * still).sum() / still.sum()
    return max(0.0, 1 - float(change) / FLICKER_SCALE)


def smoothness(share: Tensor) -> float:
    """Return 1 less the mean distance of centres from the middle of their neighbours, scaled."""
    axis = torch.linspace(0, 1, share.shape[-1], device=share.device)
    mass = share.sum((2, 3)).clamp(min=1e-2)
    x, y = (share.sum(2) * axis).sum(2) / mass, (share.sum(3) * axis).sum(2) / mass
    path = torch.stack((x, y), -1)
    off = (path[:, 1:-1] - (path[:, 2:] + path[:, :-2]) / 2).norm(dim=-1).mean()
    return max(0.0, 1 - float(off) / JERK_SCALE)
