"""Placements: where a stage runs, in which precision, and how much of the work at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.tiles import Tiles

__all__ = ["MIN_SHARE", "Placement", "Reason", "Sizes", "fitting", "min_bytes"]

Sizes = Mapping[str, int]
"""The sizes of a stage's free axes, by their names."""
MIN_SHARE = 0.5
"""Share of a graph's nodes that a device should take to be worth its name."""


class Reason(str, Enum):
    """Why a backend was chosen."""

    REQUESTED = "requested"
    MEASURED = "measured"
    """The fastest one that `--tune` measured."""
    LEANEST = "fewest joules measured"
    """The one that used the least energy as `--tune` measured, for `--low-power`."""
    FIRST = "first that works"
    """The first of `auto`'s order that loads the stage."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Placement:
    """How a stage runs: a backend with sizes and tiles, and the reason it was chosen."""

    stage: str
    kind: StageKind
    backend: Backend
    sizes: Sizes
    """Of one run: a decoder may take fewer frames than the video has."""
    reason: Reason = Reason.REQUESTED
    tiles: Tiles | None = None
    """How a decoder cuts a frame, at first into one tile; None where it cannot."""
    share: float = 1.0
    """Share of the graph's nodes that the device took, in [0, 1]; known once it is loaded."""
    psnr_db: float | None = None
    """Of frames by a quantized graph against those in float32, as measured when it was made."""

    def __str__(self) -> str:
        tiles = f", in {len(self.tiles)} tiles" if self.tiles and self.is_tiled else ""
        share = f"{100 * self.share:.0f} % of the nodes there"
        if self.psnr_db is not None:
            share += f", frames {self.psnr_db:.1f} dB from float32"
        return f"{self.backend} ({self.reason}, {share}{tiles})"

    @property
    def is_tiled(self) -> bool:
        """Whether a decoder cuts a frame into several tiles."""
        return self.tiles is not None and len(self.tiles) > 1

    def graphs(self) -> list[tuple[str, Sizes]]:
        """Return what is loaded: names of stages in the bundle, and sizes in latent pixels."""
        if self.tiles is None or len(self.tiles) == 1:
            return [(self.stage, self.sizes)]
        tile = {"height": self.tiles.tile_height, "width": self.tiles.tile_width}
        return [(f"{self.stage}_head", self.sizes), (f"{self.stage}_tail", {**self.sizes, **tile})]

    def smaller(self) -> "Placement | None":
        """Return the placement with half as much of a decoder's work at once; None for no less.

        Fewer frames cost nothing; smaller tiles of a single frame are run twice.
        """
        if self.kind is not StageKind.DECODER:
            return None
        if self.sizes["frames"] > 1:
            return replace(self, sizes={**self.sizes, "frames": self.sizes["frames"] // 2})
        tiles = self.tiles and self.tiles.finer()
        return replace(self, tiles=tiles) if tiles else None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "device": self.backend.device.name,
            "precision": str(self.backend.precision),
            "share_on_device": round(self.share, 4),
            "why": str(self.reason),
            "psnr_db": self.psnr_db,
            "tiles": len(self.tiles) if self.tiles else 1,
        }


Need = Callable[[Placement], int]
"""Bytes that a placement takes."""


def fitting(placements: Iterable[Placement], need: Need, cap: int) -> list[Placement]:
    """Return the placements that stay within `cap` bytes, with less at once where need be."""
    tried = ([p for p in _ever_smaller(each) if need(p) <= cap] for each in placements)
    return [fit[0] for fit in tried if fit]


def min_bytes(placements: Iterable[Placement], need: Need) -> int:
    """Return the smallest cap at which one of `placements` fits."""
    return min(need(tried) for each in placements for tried in _ever_smaller(each))


def _ever_smaller(placement: Placement) -> Iterator[Placement]:
    tried: Placement | None = placement
    while tried is not None:
        yield tried
        tried = tried.smaller()
