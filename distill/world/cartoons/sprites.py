"""The sprites of the cartoons world as tensors: every noun's loop at several sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from hummingbird_edge.distill.world.cartoons.catalog import NOUNS, SPRITES_FOLDER
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["FRAME_MS", "LOOP", "PYRAMID", "Sprites", "read_frames"]

LOOP = 16
"""Frames of a sprite's loop."""
FRAME_MS = 125
"""How long a sprite's file shows one of them."""
PYRAMID = (128, 96, 64, 48, 32, 24)
"""Sides of the copies of a sprite, in pixels: one near the drawn size spares the sampler from
skipping pixels."""


@dataclass(frozen=True, slots=True)
class Sprites:
    """The loops of some nouns, RGB times alpha and alpha, at every size of the pyramid."""

    nouns: tuple[str, ...]
    levels: tuple[Tensor, ...]
    """(N, LOOP, 4, side, side) uint8 a level."""

    @classmethod
    def read(
        cls,
        nouns: Sequence[str],
        device: torch.device | str = "cpu",
        folder: Path = SPRITES_FOLDER,
    ) -> "Sprites":
        """Read the sprites of `nouns`; raises RequestError where one is missing or broken."""
        loops = torch.stack([_read_loop(folder / NOUNS[noun].file) for noun in nouns])
        return cls(tuple(nouns), tuple(_shrink(loops, side).to(device) for side in PYRAMID))

    @property
    def device(self) -> torch.device:
        """Where the sprites are, and so where they are drawn."""
        return self.levels[0].device

    def rows(self, nouns: Sequence[str]) -> Tensor:
        """Return the rows of `nouns`, (len(nouns),) int64."""
        known = {noun: row for row, noun in enumerate(self.nouns)}
        return torch.tensor([known[noun] for noun in nouns], device=self.device)


def read_frames(path: Path) -> list[Image.Image]:
    """Read the LOOP frames of one sprite, RGBA; raises RequestError.

    The format keeps frames that look alike once, for as long as all of them.
    """
    frames: list[Image.Image] = []
    try:
        with Image.open(path) as picture:
            for index in range(getattr(picture, "n_frames", 1)):
                picture.seek(index)
                frame = picture.convert("RGBA")
                frames += [frame] * round(picture.info["duration"] / FRAME_MS)
    except (OSError, EOFError, KeyError, UnidentifiedImageError) as error:
        raise RequestError(f"{path} cannot be read ({error}): install the project again") from error
    if len(frames) != LOOP:
        raise RequestError(
            f"{path} has {len(frames)} frames, a sprite has {LOOP}: make it anew with "
            f"curate_sprites.py"
        )
    return frames


def _read_loop(path: Path) -> Tensor:
    """Read one sprite, (LOOP, 4, side, side) uint8, RGB premultiplied by alpha."""
    frames = np.stack([np.asarray(frame) for frame in read_frames(path)])
    loop = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    loop[:, :3] *= loop[:, 3:] / 255
    return loop.round().to(torch.uint8)


def _shrink(loops: Tensor, side: int) -> Tensor:
    """Resize (N, LOOP, 4, S, S) uint8 to `side`, a noun at a time: floats of all are large."""
    if side == loops.shape[-1]:
        return loops
    small = [
        functional.interpolate(loop.float(), size=(side, side), mode="bilinear", antialias=True)
        for loop in loops
    ]
    return torch.stack([loop.round().clamp(0, 255).to(torch.uint8) for loop in small])
