"""Quality, semantic and total score, as VBench's leaderboard computes them."""

from collections.abc import Mapping
from dataclasses import dataclass

from hummingbird_edge.benchmarks.lib.vbench.dimensions import DIMENSIONS, Dimension

__all__ = ["PUBLISHED", "Totals", "mean_of"]

_QUALITY_SHARE = 4 / 5
"""Of the total; the semantic score has the rest."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Scores in percent; None where a dimension is missing or incomplete, or none was published."""

    quality: float | None
    semantic: float | None
    total: float | None

    @classmethod
    def of(cls, scores: Mapping[str, float]) -> "Totals":
        """Return what the scores of dimensions, in [0, 1], add up to; only whole halves count."""
        quality = mean_of(scores, [each for each in DIMENSIONS if each.is_quality])
        semantic = mean_of(scores, [each for each in DIMENSIONS if not each.is_quality])
        if quality is None or semantic is None:
            return cls(quality, semantic, None)
        total = _QUALITY_SHARE * quality + (1 - _QUALITY_SHARE) * semantic
        return cls(quality, semantic, total)


PUBLISHED: Mapping[str, Totals] = {
    "Hummingbird, 16 frames (paper)": Totals(None, None, 81.35),
    "Hummingbird, 26 frames (paper)": Totals(None, None, 80.31),
    "VideoCrafter2 (leaderboard)": Totals(82.20, 73.42, 80.44),
}
"""Isobe et al. 2025 (arXiv:2503.18559); VBench's leaderboard."""


def mean_of(scores: Mapping[str, float], dimensions: list[Dimension]) -> float | None:
    """Return the weighted mean of normalized scores in percent; None where one is missing."""
    if any(each.name not in scores for each in dimensions):
        return None
    parts = (each.importance * each.normalized(scores[each.name]) for each in dimensions)
    return 100 * sum(parts) / sum(each.importance for each in dimensions)
