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
from typing import NamedTuple, Protocol

import torch

from hummingbird_edge.distill.world.render import BACKGROUNDS, COLOURS, RADII, render
from hummingbird_edge.distill.world.shapes import World, attributes, parse
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Reward", "ShapesReward", "load_reward"]

Parts = Mapping[str, torch.Tensor]

BORDER = 2  # pixels at each side that belong to the ground
SOFTNESS = 8.0  # slope of the step from ground to object
EDGE = 24.0  # the same where far pixels count by the square of their distance
NEAR = 1.5  # in radii; what lies further from the centre says nothing of the form
TYPICAL = (0.8, 0.6, 1.8)  # moments of a triangle, a square and a five-pointed star


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
        if not callable(reward):
            raise ValueError(f"it is a {type(reward).__name__}")
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(
            f"there is no reward {name!r} ({error}): choose shapes, scorer or MODULE:FUNCTION"
        ) from error
    return reward


class ShapesReward:
    """The parts of the judge that have gradients: ground, stillness, colour, size, path, form."""

    def __call__(self, frames: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Return the mean of the parts, each at most 0 (as it should be)."""
        return torch.stack(list(self.parts(frames, captions).values())).mean(0)

    def parts(self, frames: torch.Tensor, captions: Sequence[str]) -> Parts:
        """Return each part by its name, (B,): how far from the scene as the captions describe it.

        Where the ideal leaves a little to chance (size, path and place, a few per cent), so does
        the reward: its best value is not quite 0.
        """
        try:
            scenes = [parse(caption) for caption in captions]
            asked = [attributes(scene) for scene in scenes]
        except ValueError as error:
            raise RequestError(
                f"the reward 'shapes' reads captions of moving shapes alone ({error}): "
                f"choose other rewards"
            ) from error
        device = frames.device
        world = World(frames=frames.shape[1], resolution=frames.shape[-1], jitter=0.0)
        ideal = render(scenes, world, torch.Generator(), device)
        ground = torch.tensor([BACKGROUNDS[a["background"]] for a in asked], device=device)
        paint = torch.tensor([COLOURS[a["colour"]] for a in asked], device=device)
        radius = torch.tensor([RADII[a["size"]] for a in asked], device=device)
        ground, along = (x[:, None, :, None, None] for x in (ground, paint - ground))
        share, wanted = (
            ((clip - ground) * along).sum(2) / along.square().sum(2) for clip in (frames, ideal)
        )
        likeness = torch.sigmoid(SOFTNESS * (share - 0.5))
        found, aim = _form(share, radius), _form(wanted, radius)
        return {
            "ground": -_border((frames - ground).abs().mean(2)),
            "stillness": -_flicker(frames, likeness.detach()),
            "colour": -(frames - ground - likeness[:, :, None] * along).abs().mean((1, 2, 3, 4)),
            "size": -(found.side - aim.side).abs().mean(1),
            "path": -(found.path - aim.path).abs().mean((1, 2)),
            "form": -(found.moments - aim.moments).abs().mean((1, 2)),
        }


def _border(error: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, T, H, W) over the pixels at the border."""
    inside = error[..., BORDER:-BORDER, BORDER:-BORDER]
    count = error[0].numel() - inside[0].numel()
    return (error.sum((1, 2, 3)) - inside.sum((1, 2, 3))) / count


def _flicker(frames: torch.Tensor, likeness: torch.Tensor) -> torch.Tensor:
    """Return the mean change from frame to frame where both show the ground, in full brightness."""
    still = ((likeness[:, 1:] < 0.1) & (likeness[:, :-1] < 0.1)).float()
    change = frames.diff(dim=1).abs().mean(2)
    return (still * change).sum((1, 2, 3)) / still.sum((1, 2, 3)).clamp(min=1)


class _Form(NamedTuple):
    side: torch.Tensor  # (B, T) square root of the area, in frame sides
    path: torch.Tensor  # (B, T, 2) the centre around its mean over the clip, in frame sides
    moments: torch.Tensor  # (B, T, 7) compactness, and 3, 4 and 5-fold symmetry


def _form(share: torch.Tensor, radius: torch.Tensor) -> _Form:
    """Measure the object whose likeness is `share` (B, T, H, W): 0 the ground, 1 the object.

    Moments are complex, so that the angle of a spinning object counts too; they are divided by
    what the matching shape has.
    """
    side = share.shape[-1]
    grid = (torch.arange(side, device=share.device) + 0.5) / side
    weight = torch.sigmoid(EDGE * (share - 0.5))
    place = torch.complex(*torch.meshgrid(grid, grid, indexing="xy"))
    with torch.no_grad():
        middle = (weight * place).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6)
        near = (place - middle[..., None, None]).abs() < NEAR * radius.view(-1, 1, 1, 1)
    path = torch.view_as_real((weight * place).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1.0))
    area = weight.mean((2, 3))
    weight = weight * near
    mass = weight.sum((2, 3)).clamp(min=1.0)
    offset = place - ((weight * place).sum((2, 3)) / mass)[..., None, None]
    spread = (weight * offset.abs().square()).sum((2, 3)) / mass + 1e-5
    moments = [mass / (side * side * 2 * math.pi * spread)]
    for fold, typical in zip((3, 4, 5), TYPICAL, strict=True):
        moment = (weight * offset**fold).sum((2, 3)) / mass / spread ** (fold / 2) / typical
        moments += [moment.real, moment.imag]
    return _Form(
        side=area.clamp(min=1e-6).sqrt(),
        path=path - path.mean(1, keepdim=True),
        moments=torch.stack(moments, -1),
    )
