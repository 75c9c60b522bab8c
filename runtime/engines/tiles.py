"""Decoding a picture by tiles, when the decoder's activations do not fit into memory.

    mean = sum_i a_i mean_i,  var = sum_i a_i (var_i + mean_i^2) - mean^2        over tiles i

The head, the decoder's coarse levels with its attention, sees the whole picture; the tail, the fine
levels where the memory goes, sees one tile. A tail's pixel hangs on a few features around it, so a
tile that is a little larger than what is kept of it is right but for GroupNorm, whose mean and
variance are those of the whole picture. Each tile measures its own, every feature weighted by the
share a_i of the picture that the tile gives; the next pass takes the picture's. What a layer
measures hangs on the layers before it: after k passes the first k layers are exact, and the others
are near long before that.

Sources: the overlap and the ramps are those of tiled VAE decoding in diffusers
(`AutoencoderKL.tiled_decode`), which leaves each tile its own statistics; sharing them is the idea
of Tiled VAE in pkuliyi2015/multidiffusion-upscaler-for-automatic1111.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["OVERLAP", "Tiles", "decode_tiled"]

OVERLAP = 4
"""Latent pixels that neighbouring tiles share at least; the published decoder's tail sees 2.75."""
PASSES = 3
"""On the smallest pictures of moving shapes two leave 43 dB to the whole decoder, three 48."""
_MIN = 2 * OVERLAP
"""Smallest side of a tile, in latent pixels."""
_FINEST = 16
"""Smallest side that is planned."""

Floats = NDArray[np.float32]
Head = Callable[[Mapping[str, NDArray[Any]]], Floats]
Tail = Callable[[Mapping[str, NDArray[Any]]], tuple[Floats, ...]]


class Window(NamedTuple):
    """One tile in a picture."""

    rows: slice
    columns: slice
    down: Floats
    """Weights of its rows (h, 1) in [0, 1]."""
    right: Floats
    """Weights of its columns (w,) in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a picture of latents is cut; all tiles have one size, so that one session serves them."""

    height: int
    """Of the picture, in latent pixels, as all that follow."""
    width: int
    tile_height: int
    """At most `height`: a larger one is cut to it."""
    tile_width: int
    overlap: int = OVERLAP
    """Least overlap of neighbours. Its outer quarters count nothing, its middle half blends."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile_height", min(self.tile_height, self.height))
        object.__setattr__(self, "tile_width", min(self.tile_width, self.width))
        if self.overlap < OVERLAP:
            raise RequestError(
                f"tiles overlap by {self.overlap} latent pixels: give {OVERLAP} or more"
            )
        for name in ("height", "width"):
            tile, whole = getattr(self, f"tile_{name}"), getattr(self, name)
            least = min(whole, max(_MIN, self.overlap + 1))
            if tile < least:
                raise RequestError(
                    f"a tile has a {name} of {tile} latent pixels with an overlap of "
                    f"{self.overlap}: give {least} or more"
                )

    @classmethod
    def grid(cls, height: int, width: int, rows: int, columns: int) -> "Tiles":
        """Cut into `rows` x `columns` tiles; raises RequestError where they become too small."""
        sides = [
            -(-(whole + (count - 1) * OVERLAP) // count)
            for whole, count in ((height, rows), (width, columns))
        ]
        return cls(height, width, *sides)

    def finer(self) -> "Tiles | None":
        """Return twice as many tiles, cut across the longer side; None where they are too small.

        Finer than this they were not held to the whole picture, and would be mostly overlap.
        """
        rows, columns = len(self.tops), len(self.lefts)
        if self.tile_height > self.tile_width:
            rows *= 2
        else:
            columns *= 2
        with suppress(RequestError):
            found = Tiles.grid(self.height, self.width, rows, columns)
            fine = min(found.tile_height, found.tile_width) >= _FINEST
            return found if fine and len(found) > len(self) else None
        return None

    @property
    def tops(self) -> list[int]:
        """Where the rows of tiles start."""
        return _starts(self.height, self.tile_height, self.overlap)

    @property
    def lefts(self) -> list[int]:
        """Where the columns of tiles start."""
        return _starts(self.width, self.tile_width, self.overlap)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def windows(self, scale: int) -> Iterator["Window"]:
        """Yield where every tile lies in a picture `scale` times as large as the latents.

        The weights of all tiles, a row's times a column's, sum to 1 at each pixel.
        """
        across = [
            list(_windows(whole * scale, tile * scale, self.overlap * scale, starts, scale))
            for whole, tile, starts in (
                (self.height, self.tile_height, self.tops),
                (self.width, self.tile_width, self.lefts),
            )
        ]
        for rows, down in across[0]:
            for columns, right in across[1]:
                yield Window(rows, columns, down[:, None], right)


def decode_tiled(
    latents: Floats,
    tiles: Tiles,
    head: Head,
    tail: Tail,
    layers: int,
    groups: int,
    passes: int = PASSES,
) -> Floats:
    """Decode unscaled latents (N, C, h, w) to RGB (N, 3, H, W) float32, about [-1, 1].

    `head` and `tail` run the graphs of that name. `head` takes `latent_sample` and returns
    features (N, F, k h, k w). `tail` takes a tile of `features`, `row_weights` (1, 1, k th, 1),
    `column_weights` (1, 1, 1, k tw) and `statistics` (N, layers, 2, groups), mean and variance,
    where a negative variance asks for the tile's own; it returns RGB and its own statistics. Of
    `passes` over the tiles all but the last only measure.
    """
    features = head({"latent_sample": np.ascontiguousarray(latents)})
    statistics = np.full((len(latents), layers, 2, groups), -1, np.float32)
    for _ in range(passes - 1 if len(tiles) > 1 else 0):
        parts = [(own, share) for _, own, share in _run(features, tiles, tail, statistics)]
        statistics = _together(parts)
    samples = (sample for sample, _, _ in _run(features, tiles, tail, statistics))
    return _blend(samples, tiles)


def _blend(samples: Iterator[Floats], tiles: Tiles) -> Floats:
    """Lay tiles (N, 3, tile height, tile width) in order into one picture (N, 3, H, W)."""
    first = next(samples)
    zoom = first.shape[2] // tiles.tile_height
    picture = np.zeros((*first.shape[:2], tiles.height * zoom, tiles.width * zoom), np.float32)
    for sample, window in zip(chain((first,), samples), tiles.windows(zoom), strict=True):
        picture[:, :, window.rows, window.columns] += sample * window.down * window.right
    return picture


def _run(
    features: Floats, tiles: Tiles, tail: Tail, statistics: Floats
) -> Iterator[tuple[Floats, Floats, float]]:
    """Yield the RGB of every tile, its own statistics, and its share of the picture."""
    scale = features.shape[2] // tiles.height
    for rows, columns, down, right in tiles.windows(scale):
        inputs = {
            "features": np.ascontiguousarray(features[:, :, rows, columns]),
            "row_weights": down[None, None],
            "column_weights": right[None, None, None],
            "statistics": statistics,
        }
        sample, own = tail(inputs)
        area = down.sum(dtype=np.float64) * right.sum(dtype=np.float64)
        yield sample, own, float(area) / features[0, 0].size


def _together(parts: list[tuple[Floats, float]]) -> Floats:
    """Join the statistics (N, layers, 2, groups) of tiles by their shares of the picture."""
    mean = sum(share * own[:, :, 0].astype(np.float64) for own, share in parts)
    square = sum(
        share * (own[:, :, 1] + np.square(own[:, :, 0], dtype=np.float64)) for own, share in parts
    )
    var = np.maximum(square - np.square(mean), 0)
    return np.stack((mean, var), axis=2).astype(np.float32)


def _starts(whole: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles start along one axis, evenly spread."""
    if tile >= whole:
        return [0]
    count = -(-(whole - overlap) // (tile - overlap))
    return [round(i * (whole - tile) / (count - 1)) for i in range(count)]


def _windows(
    whole: int, tile: int, overlap: int, starts: list[int], scale: int
) -> Iterator[tuple[slice, Floats]]:
    """Yield where each tile lies along one axis, and its weights (tile,)."""
    slices = [slice(start * scale, start * scale + tile) for start in starts]
    ramps = [_ramp(whole, tile, overlap, part.start) for part in slices]
    total = np.zeros(whole)
    for part, ramp in zip(slices, ramps, strict=True):
        total[part] += ramp
    for part, ramp in zip(slices, ramps, strict=True):
        yield part, (ramp / total[part]).astype(np.float32)


def _ramp(whole: int, tile: int, overlap: int, start: int) -> NDArray[np.float64]:
    """Return weights (tile,) that rise from 0 to 1 within the middle half of the overlap.

    Not at the picture's own edges, where nothing is missing.
    """
    rising = np.clip((np.arange(tile) + 0.5 - overlap / 4) / (overlap / 2), 0, 1)
    ramp = np.ones(tile)
    if start > 0:
        ramp = np.minimum(ramp, rising)
    if start + tile < whole:
        ramp = np.minimum(ramp, rising[::-1])
    return ramp
