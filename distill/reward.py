"""Rewards: how well decoded frames show what their caption says, with gradients.

A reward is any function of frames (B, T, 3, H, W) in about [0, 1] and B captions to (B,) values,
higher is better. Stage 2 takes any number of them by name.

At full scale Hummingbird (arXiv:2503.18559) uses two published networks. An adapter is a function
of a few lines around their packages:

    def hpsv2(frames, captions):        # Wu et al. 2023, arXiv:2306.09341: an image and its text
        images = preprocess(frames[:, ::4].flatten(0, 1))       # a few frames, 224 x 224
        scores = clip_similarity(images, captions, repeats=frames[:, ::4].shape[1])
        return scores.unflatten(0, (len(captions), -1)).mean(1)

    def internvideo2(frames, captions): # Wang et al. 2024, arXiv:2403.15377: a clip and its text
        clip = preprocess(frames[:, sample_of_8])               # 8 frames, 224 x 224
        return cosine(video_tower(clip), text_tower(captions))

Here `ShapesReward` takes the place of the first, `scorer.ContrastiveReward` that of the second.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from hummingbird_edge.distill.render import BACKGROUNDS, COLOURS, PATHS, RADII
from hummingbird_edge.distill.world import attributes, parse
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Reward", "ShapesReward", "load_reward"]

Parts = Mapping[str, torch.Tensor]

BORDER = 2  # pixels at each side that belong to the ground
SOFTNESS = 8.0  # slope of the step from ground to object


class Reward(Protocol):
    """A differentiable score."""

    def __call__(self, frames: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Score `frames` (B, T, 3, H, W), RGB in about [0, 1], by `captions`: (B,) float32."""
        ...


def load_reward(name: str) -> Reward:
    """Import a reward of one's own, `module:function`; raises RequestError where there is none."""
    module, _, function = name.partition(":")
    try:
        reward: Reward = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(
            f"there is no reward {name!r} ({error}): choose shapes, scorer or MODULE:FUNCTION"
        ) from error
    return reward


class ShapesReward:
    """The parts of the judge that have gradients: ground, colour, size and path."""

    def __call__(self, frames: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Return the mean of the parts, each at most 0 (as it should be)."""
        return torch.stack(list(self.parts(frames, captions).values())).mean(0)

    def parts(self, frames: torch.Tensor, captions: Sequence[str]) -> Parts:
        """Return each part by its name, (B,)."""
        try:
            asked = [attributes(parse(caption)) for caption in captions]
        except ValueError as error:
            raise RequestError(
                f"the reward 'shapes' reads captions of moving shapes alone ({error}): "
                f"choose other rewards"
            ) from error
        device = frames.device
        ground = torch.tensor([BACKGROUNDS[a["background"]] for a in asked], device=device)
        paint = torch.tensor([COLOURS[a["colour"]] for a in asked], device=device)
        radius = torch.tensor([RADII[a["size"]] for a in asked], device=device)
        along = paint - ground
        offset = frames - ground[:, None, :, None, None]
        share = torch.einsum("btchw,bc->bthw", offset, along / along.square().sum(1, keepdim=True))
        weight = torch.sigmoid(SOFTNESS * (share - 0.5))
        shown = ground[:, None, :, None, None] + weight[:, :, None] * along[:, None, :, None, None]
        mass = weight.mean((2, 3))
        return {
            "ground": -_border(offset.abs().mean(2)),
            "colour": -(frames - shown).abs().mean((1, 2, 3, 4)),
            "size": -(mass.amax(1).clamp(min=1e-6).sqrt() - _side(asked, radius)).abs(),
            "path": -_path_error(weight, asked),
        }


def _side(asked: Sequence[Mapping[str, str]], radius: torch.Tensor) -> torch.Tensor:
    """Return the square root of the area that each shape covers, in frame sides."""
    area = {"circle": math.pi, "square": 2.82, "triangle": 1.87, "star": 1.6, "cross": 2.39}
    scale = torch.tensor([area[a["shape"]] for a in asked], device=radius.device).sqrt()
    return radius * scale


def _border(error: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, T, H, W) over the pixels at the border."""
    inside = error[..., BORDER:-BORDER, BORDER:-BORDER]
    count = error[0].numel() - inside[0].numel()
    return (error.sum((1, 2, 3)) - inside.sum((1, 2, 3))) / count


def _path_error(weight: torch.Tensor, asked: Sequence[Mapping[str, str]]) -> torch.Tensor:
    """Return how far the centre strays from the named path's directions, in frame sides."""
    count, side = weight.shape[1], weight.shape[-1]
    grid = (torch.arange(side, device=weight.device) + 0.5) / side
    mass = weight.sum((2, 3)).clamp(min=1e-3)
    x = (weight.sum(2) * grid).sum(-1) / mass
    y = (weight.sum(3) * grid).sum(-1) / mass
    t = torch.linspace(0, 1, count, device=weight.device)
    wanted = []
    for row in asked:
        still = (torch.zeros_like(t), torch.zeros_like(t))
        path = PATHS[row["motion"]](t) if row["motion"] in PATHS else still
        reach = 0.5 - 1.2 * RADII[row["size"]] - 0.08
        wanted.append(torch.stack(path) * reach)
    target = torch.stack(wanted)
    found = torch.stack([x, y], 1)
    error = (found - found.mean(2, keepdim=True)) - (target - target.mean(2, keepdim=True))
    return error.abs().mean((1, 2))
