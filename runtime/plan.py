"""The ways to run a stage, in the order in which they are tried: where, in which precision, and how
much of the work at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hummingbird_edge.runtime.placement import Option

__all__ = ["Sizes", "Way", "fitting", "least_bytes", "smaller"]

Sizes = Mapping[str, int]
"""The sizes of a stage's free axes, by their names."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a stage."""

    stage: str
    option: Option
    why: str
    """`asked for`, `measured` or `first that works`."""
    sizes: Sizes
    """Of one run: a decoder may take fewer frames than the video has."""


Need = Callable[[Way], int]
"""Bytes that a way takes."""


def fitting(ways: Iterable[Way], need: Need, cap: int | None) -> list[Way]:
    """Return the ways that stay within `cap` bytes, with less of the work at once where that helps.

    Without a cap, all of them.
    """
    if cap is None:
        return list(ways)
    tried = ([w for w in _ever_smaller(way) if need(w) <= cap] for way in ways)
    return [fit[0] for fit in tried if fit]


def least_bytes(ways: Iterable[Way], need: Need) -> int:
    """Return the smallest cap at which some way of `ways` fits."""
    return min(need(tried) for way in ways for tried in _ever_smaller(way))


def smaller(way: Way) -> Way | None:
    """Return the way with half the frames of a decoder at once; None where there is no less."""
    if not way.stage.endswith("decoder") or way.sizes["frames"] == 1:
        return None
    return replace(way, sizes={**way.sizes, "frames": way.sizes["frames"] // 2})


def _ever_smaller(way: Way) -> Iterator[Way]:
    tried: Way | None = way
    while tried is not None:
        yield tried
        tried = smaller(tried)
