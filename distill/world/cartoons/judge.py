"""Say what a clip of the cartoons world shows, from its decoded pixels alone.

A small network, trained on rendered clips that were blurred, coarsened and made noisy. It shares
nothing with the renderer but the names: the renderer gives labels and where the sprite is, and
clips whose sprite stands frozen teach it to see whether the noun's own action happens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.world.cartoons.shots import Shot, World

__all__ = ["ATTRIBUTES", "Judge", "JudgeConfig", "Logits", "Verdict", "frechet_distance"]

ATTRIBUTES = ("noun", "ground", "path", "size", "action")
"""What a judge names; all but the last are a shot's."""
LOOKS = 8
"""Frames of a clip that the judge looks at, evenly spaced."""
SIDE = 128
"""Pixels of a frame's side as it is looked at."""
ALIGNED = 40
"""Pixels of a side of a sprite that was cut out."""
SPAN = 2.5
"""Half of that side, in standard deviations of the mask."""
CHANGE = 5.0
"""By how much changes from frame to frame are enlarged: they are small beside what stays."""
CHANGES = 3
"""Numbers that say how much a sprite changes: on average, at most and at least."""
GEOMETRY = 5
"""Numbers that say where a sprite is: its centre, how wide and tall it is, and its size."""


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """The names that a judge knows, and its width."""

    nouns: tuple[str, ...]
    grounds: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: tuple[str, ...]
    width: int = 64
    unseen: tuple[str, ...] = ()
    """Those of the nouns that no model of the world has seen: what adapters are taught."""

    @classmethod
    def of(cls, world: World, unseen: Sequence[str] = ()) -> "JudgeConfig":
        """Return the configuration of a judge for `world`, which knows `unseen` nouns besides."""
        nouns = (*world.nouns, *unseen)
        return cls(nouns, world.grounds, world.paths, world.sizes, unseen=tuple(unseen))

    @property
    def seen(self) -> tuple[str, ...]:
        """The nouns of the world."""
        return tuple(noun for noun in self.nouns if noun not in self.unseen)


@dataclass(frozen=True, slots=True)
class Logits:
    """What the network makes of a batch of clips."""

    noun: Tensor
    ground: Tensor
    path: Tensor
    size: Tensor
    action: Tensor
    """(B, 2): the second is that the own action happens."""
    mask: Tensor
    """(B, T, 16, 16) where the sprite is, before the sigmoid."""
    features: Tensor
    """(B, 128) for a distance between sets of clips."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge saw in one clip."""

    shot: Shot
    is_acting: bool
    """Whether the noun's own action was seen."""

    def score(self, shot: Shot) -> dict[str, bool]:
        """Compare with what a caption asked for: each of ATTRIBUTES, and three at once."""
        said = ATTRIBUTES[:-1]
        right = {name: getattr(self.shot, name) == getattr(shot, name) for name in said}
        right["action"] = self.is_acting
        return {**right, "all": right["noun"] and right["ground"] and right["path"]}


class Bottleneck(nn.Module):
    """A residual block that computes at half the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, half, 1),
            nn.GroupNorm(8, half),
            nn.SiLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.GroupNorm(8, half),
            nn.SiLU(),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


def _down(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, stride=2, padding=1)
    )


class Judge(nn.Module):
    """Frames through one convolutional network, then the order of what was seen."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.fine = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1),
            _down(width // 2, width),
            _down(width, 2 * width),
            Bottleneck(2 * width),
            Bottleneck(2 * width),
        )
        self.coarse = nn.Sequential(
            _down(2 * width, 4 * width),
            Bottleneck(4 * width),
            Bottleneck(4 * width),
            nn.GroupNorm(8, 4 * width),
            nn.SiLU(),
        )
        self.mask = nn.Sequential(nn.GroupNorm(8, 2 * width), nn.SiLU(), nn.Conv2d(2 * width, 1, 1))
        self.noun = nn.Linear(4 * width, len(config.nouns))
        self.ground = nn.Linear(4 * width, len(config.grounds))
        self.track = nn.Sequential(
            nn.Conv1d(GEOMETRY, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * LOOKS, 64),
            nn.SiLU(),
        )
        self.path, self.size = nn.Linear(64, len(config.paths)), nn.Linear(64, len(config.sizes))
        self.pair = nn.Sequential(
            nn.Conv2d(8, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.GroupNorm(8, 128),
            nn.SiLU(),
        )
        self.action = nn.Sequential(nn.Linear(2 * 128 + CHANGES, 64), nn.SiLU(), nn.Linear(64, 2))

    def watch(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at each frame of clips (B, T, 3, H, W) in [0, 1] by itself, T any number.

        Returns where the sprite is (B, T, 16, 16) before the sigmoid, what it looks like and what
        the whole frame does, (B, T, C) each.
        """
        count = frames.shape[1]
        looks = frames.flatten(0, 1) * 2 - 1
        if looks.shape[-1] != SIDE:
            looks = functional.interpolate(looks, size=(SIDE, SIDE), mode="bilinear")
        looks = looks.contiguous(memory_format=torch.channels_last)
        fine = self.fine(looks)
        coarse = self.coarse(fine)
        mask = self.mask(fine)[:, 0].float()
        share = mask.sigmoid()
        weight = functional.adaptive_avg_pool2d(share[:, None], coarse.shape[-1])
        subject = (coarse * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-3)
        found = (mask, subject.float(), coarse.mean((2, 3)).float())
        seen, subjects, around = (part.unflatten(0, (-1, count)) for part in found)
        return seen, subjects, around

    def forward(self, frames: Tensor) -> Logits:
        """Read clips (B, T, 3, H, W) in [0, 1]; T is LOOKS, or 1 where no order is needed."""
        mask, subject, around = self.watch(frames)
        share = mask.sigmoid()
        places = _geometry(share.flatten(0, 1)).unflatten(0, mask.shape[:2])
        track = self.track(_spread(places))
        cut = _aligned(frames, share.detach(), places.detach())
        pairs = self._pairs(cut)
        moved = torch.cat((pairs.mean(1), pairs.amax(1), _changes(*_neighbours(cut))), 1)
        looked = subject.mean(1)
        features = torch.cat(
            (looked[:, :32], around.mean(1)[:, :32], track[:, :32], moved[:, :32]), 1
        )
        return Logits(
            noun=self.noun(looked),
            ground=self.ground(around.mean(1)),
            path=self.path(track),
            size=self.size(track),
            action=self.action(moved),
            mask=mask,
            features=features.float(),
        )

    def _pairs(self, cut: Tensor) -> Tensor:
        """Compare each frame's sprite with the next one's, (B, T - 1, C); one frame with itself."""
        first, second = _neighbours(cut)
        both = torch.cat((first + second, CHANGE * (first - second)), 2)
        found = self.pair(both.flatten(0, 1)).mean((2, 3)).float()
        return found.unflatten(0, both.shape[:2])

    @torch.no_grad()
    def look(self, frames: Tensor) -> Logits:
        """Read whole clips (B, T, 3, H, W) in [0, 1] of any length."""
        chosen = torch.linspace(0, frames.shape[1] - 1, LOOKS, device=frames.device).round().long()
        with mixed_precision(frames.device):
            logits: Logits = self(frames[:, chosen])
        return logits

    def verdicts(self, logits: Logits) -> list[Verdict]:
        """Name what was seen in each clip."""
        config = self.config
        names: list[Sequence[str]] = [config.nouns, config.paths, config.sizes, config.grounds]
        seen = (logits.noun, logits.path, logits.size, logits.ground)
        picks = [part.argmax(1).tolist() for part in seen]
        acting = (logits.action.argmax(1) == 1).tolist()
        return [
            Verdict(Shot(*(group[i] for group, i in zip(names, row, strict=True))), is_acting)
            for row, is_acting in zip(zip(*picks, strict=True), acting, strict=True)
        ]

    def labels(self, shots: Sequence[Shot]) -> Mapping[str, Tensor]:
        """Return the class of each attribute of `shots` but the action, (B,) int64 each."""
        config = self.config
        return {
            "noun": torch.tensor([config.nouns.index(shot.noun) for shot in shots]),
            "ground": torch.tensor([config.grounds.index(shot.ground) for shot in shots]),
            "path": torch.tensor([config.paths.index(shot.path) for shot in shots]),
            "size": torch.tensor([config.sizes.index(shot.size) for shot in shots]),
        }


def _geometry(share: Tensor) -> Tensor:
    """Return centre, spread and size of a mask (N, h, w) in [0, 1], (N, GEOMETRY)."""
    axis = torch.linspace(-1, 1, share.shape[-1], device=share.device)
    mass = share.sum((1, 2)).clamp(min=1e-2)
    across, down = share.sum(1) / mass[:, None], share.sum(2) / mass[:, None]
    x, y = (across * axis).sum(1), (down * axis).sum(1)
    wide = (across * (axis - x[:, None]).square()).sum(1).clamp(min=1e-6).sqrt()
    tall = (down * (axis - y[:, None]).square()).sum(1).clamp(min=1e-6).sqrt()
    return torch.stack((2 * x, 2 * y, 4 * wide, 4 * tall, mass.log() / 2), 1)


def _spread(places: Tensor) -> Tensor:
    """Return (B, GEOMETRY, LOOKS), one frame repeated where there is just one."""
    return places.transpose(1, 2).expand(-1, -1, LOOKS) if places.shape[1] == 1 else places.mT


def _aligned(frames: Tensor, share: Tensor, places: Tensor) -> Tensor:
    """Cut the sprite out of every frame (B, T, 3, H, W), its middle always at the same place.

    On its path a frozen sprite then stays as it is; one that acts changes. Its size follows a
    straight line over time, so that growing on the way closer is taken out and puffing up is not.
    Returns RGB and mask, (B, T, 4, ALIGNED, ALIGNED).
    """
    count = frames.shape[1]
    seen = functional.interpolate(share, size=frames.shape[-2:], mode="bilinear")
    both = torch.cat((frames * 2 - 1, seen[:, :, None]), 2).flatten(0, 1)
    # Sampled at half of the size: a crop skips no pixels.
    both = functional.avg_pool2d(both.float(), max(1, frames.shape[-1] // 64))
    inner = 1 - 1 / share.shape[-1]  # the mask's axis runs from cell to cell, not to the border
    middle = places[..., :2] / 2 * inner
    wide = (places[..., 2:4].amax(-1) / 4 * inner).clamp(min=0.02).log()
    time = torch.linspace(-1, 1, count, device=frames.device)
    slope = (wide * time).sum(1, keepdim=True) / time.square().sum().clamp(min=1e-6)
    half = SPAN * (wide.mean(1, keepdim=True) + slope * time).exp()
    unit = (torch.arange(ALIGNED, device=frames.device) + 0.5) * 2 / ALIGNED - 1
    down, across = torch.meshgrid(unit, unit, indexing="ij")
    grid = torch.stack((across, down), -1)
    grid = middle[:, :, None, None] + half[:, :, None, None, None] * grid
    cut = functional.grid_sample(both, grid.flatten(0, 1), align_corners=False)
    return cut.unflatten(0, (-1, count))


def _neighbours(cut: Tensor) -> tuple[Tensor, Tensor]:
    """Return each frame and the one after it; a single frame and itself."""
    return (cut[:, :-1], cut[:, 1:]) if cut.shape[1] > 1 else (cut, cut)


def _changes(first: Tensor, second: Tensor) -> Tensor:
    """Return how much a sprite changes in pairs of frames (B, T, 4, h, w), (B, CHANGES).

    Logarithms of the mean absolute change of the pixels that both masks hold.
    """
    weight = first[:, :, 3:] * second[:, :, 3:]
    change = ((first - second)[:, :, :3].abs() * weight).sum((2, 3, 4))
    change = change / (3 * weight.sum((2, 3, 4))).clamp(min=1)
    seen = torch.stack((change.mean(1), change.amax(1), change.amin(1)), 1)
    return seen.clamp(min=1e-3).log() + 3


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared Fréchet distance of two sets of features (N, C), each taken as Gaussian.

    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6: FVD's formula, on this network.
    """
    means = [x.double().mean(0) for x in (first, second)]
    covariances = [x.double().T.cov() for x in (first, second)]
    # trace(sqrt(A B)) = sum of the roots of the eigenvalues of A B, real and not negative.
    eigenvalues = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0)
    distance = (
        (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace()
    )
    return float(distance - 2 * eigenvalues.sqrt().sum())
