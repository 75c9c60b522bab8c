"""The ways to run a stage, in the order in which they are tried: where, in which precision, and how
much of the work at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.tiles import Tiles

__all__ = ["Placement", "Sizes", "fitting", "least_bytes", "smaller"]

Sizes = Mapping[str, int]
"""The sizes of a stage's free axes, by their names."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One way to run a stage."""

    stage: str
    backend: Backend
    why: str
    """`asked for`, `measured` or `first that works`."""
    sizes: Sizes
    """Of one run: a decoder may take fewer frames than the video has."""
    tiles: Tiles | None = None
    """How a decoder cuts a frame, at first into one tile; None where it cannot."""

    def graphs(self) -> list[tuple[str, Sizes]]:
        """Return what is loaded: names of graphs in the bundle, and sizes in latent pixels."""
        if self.tiles is None or len(self.tiles) == 1:
            return [(self.stage, self.sizes)]
        tile = {"height": self.tiles.tile_height, "width": self.tiles.tile_width}
        return [(f"{self.stage}_head", self.sizes), (f"{self.stage}_tail", {**self.sizes, **tile})]


Need = Callable[[Placement], int]
"""Bytes that a way takes."""


def fitting(ways: Iterable[Placement], need: Need, cap: int) -> list[Placement]:
    """Return the ways that stay within `cap` bytes, with less of the work at once if need be."""
    tried = ([w for w in _ever_smaller(way) if need(w) <= cap] for way in ways)
    return [fit[0] for fit in tried if fit]


def least_bytes(ways: Iterable[Placement], need: Need) -> int:
    """Return the smallest cap at which some way of `ways` fits."""
    return min(need(tried) for way in ways for tried in _ever_smaller(way))


def smaller(way: Placement) -> Placement | None:
    """Return the way with half as much of a decoder's work at once; None where there is no less.

    Fewer frames cost nothing; smaller tiles of a single frame are run twice.
    """
    if not way.stage.endswith("decoder"):
        return None
    if way.sizes["frames"] > 1:
        return replace(way, sizes={**way.sizes, "frames": way.sizes["frames"] // 2})
    tiles = way.tiles and way.tiles.finer()
    return replace(way, tiles=tiles) if tiles else None


def _ever_smaller(way: Placement) -> Iterator[Placement]:
    tried: Placement | None = way
    while tried is not None:
        yield tried
        tried = smaller(tried)
