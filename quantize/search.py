"""Which layers stay in higher precision: as few as the requested quality allows.

Layers are ranked by the noise they add for the work they save; those whose own signal-to-noise
ratio is below a threshold are always kept. If the frames' PSNR is then too low, more layers are
kept from the top of the ranking; bisection finds how many.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

__all__ = ["MIN_LAYER_DB", "Choice", "search"]

MIN_LAYER_DB = 20.0
"""Of a layer's output by itself: below, a hundredth of its energy is noise."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of the search."""

    keep: tuple[str, ...]
    """Layers that stay as they were."""
    psnr_db: float
    """Of the frames with all others quantized."""
    tried: tuple[tuple[int, float], ...]
    """How many layers were kept, and the PSNR, in the order of trying."""


def search(
    snr_db: Mapping[str, float],
    work: Mapping[str, float],
    measure: Callable[[Collection[str]], float],
    min_psnr_db: float,
) -> Choice:
    """Return the fewest layers to keep such that `measure` of them is at least `min_psnr_db`.

    `snr_db` and `work` (multiplications) are by layer. If no number suffices, all are kept.
    """
    gated = [name for name, snr in snr_db.items() if snr < MIN_LAYER_DB]
    ranked = sorted(snr_db, key=lambda name: (name not in gated, -_worth(snr_db[name], work[name])))
    tried: dict[int, float] = {}

    def reached(count: int) -> bool:
        if count not in tried:
            tried[count] = measure(ranked[:count])
        return tried[count] >= min_psnr_db

    low, high = len(gated), len(ranked)
    if reached(low):
        high = low
    while low < high:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle + 1
    reached(high)
    return Choice(tuple(ranked[:high]), tried[high], tuple(tried.items()))


def _worth(snr_db: float, work: float) -> float:
    """Return the noise that a layer adds per multiplication it saves."""
    return float(10 ** (-snr_db / 10) / max(work, 1.0))
