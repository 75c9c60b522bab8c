"""A differentiable reward for moving shapes: how near a clip is to its caption's ideal clip."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from hummingbird_edge.distill.world.shapes.captions import parse
from hummingbird_edge.distill.world.shapes.render import BACKGROUNDS, COLOURS, RADII, render
from hummingbird_edge.distill.world.shapes.scene import World, attributes
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["ShapesReward"]

Parts = Mapping[str, torch.Tensor]

BORDER = 2  # pixels at each side that belong to the ground
SOFTNESS = 8.0  # slope of the step from ground to object
EDGE = 24.0  # the same where far pixels count by the square of their distance
NEAR = 1.5  # in radii; what lies further from the centre is no part of the form
TYPICAL = (0.8, 0.6, 1.8)  # moments of a triangle, a square and a five-pointed star


class ShapesReward:
    """The parts of the judge that have gradients: ground, stillness, colour, size, path, form."""

    def __call__(self, frames: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Return the mean of the parts, each 0 at best."""
        return torch.stack(list(self.parts(frames, captions).values())).mean(0)

    def parts(self, frames: torch.Tensor, captions: Sequence[str]) -> Parts:
        """Return each part by its name, (B,): minus the distance to the clip that is described.

        Drawn clips vary by a few per cent in size, path and place, so even they do not reach 0.
        """
        try:
            scenes = [parse(caption) for caption in captions]
            named = [attributes(scene) for scene in scenes]
        except ValueError as error:
            raise RequestError(
                f"the reward 'shapes' reads only captions of moving shapes ({error}): "
                f"choose other rewards"
            ) from error
        device = frames.device
        world = World(frames=frames.shape[1], resolution=frames.shape[-1], jitter=0.0)
        ideal = render(scenes, world, torch.Generator(), device)
        ground = torch.tensor([BACKGROUNDS[a["background"]] for a in named], device=device)
        paint = torch.tensor([COLOURS[a["colour"]] for a in named], device=device)
        radius = torch.tensor([RADII[a["size"]] for a in named], device=device)
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
