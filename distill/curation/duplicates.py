"""Find clips that are near copies of others, whoever made them: by their fingerprints alone.

A fingerprint is a difference hash (Krawetz 2013, "Kind of like that"): a bit for each place of a
small picture, whether the brightness there rises to the right; here of each colour of three frames.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.curation.candidate import Candidate

__all__ = ["find_copies", "take_fingerprint"]

GRID = 16
"""Rows and columns of the differences."""
RISE = 2
"""Least difference that counts, of 255: flat grounds have none."""
BYTES = 3 * GRID * GRID * 3 // 8
_MIXING = 0x5EED
"""Fixes which bytes stand together in a band: of neighbours many would be alike."""


def take_fingerprint(clip: Candidate) -> Iterator[Candidate]:
    """Yield the clip with its fingerprint in place of its frames."""
    import cv2

    if clip.fault:
        yield clip
        return
    frames, bits = clip.pixels, []
    for index in (0, len(frames) // 2, len(frames) - 1):
        size = (GRID + 1, GRID)
        small = cv2.resize(frames[index], size, interpolation=cv2.INTER_AREA).astype(np.int16)
        bits.append(small[:, 1:] - small[:, :-1] > RISE)
    yield clip.but(fingerprint=np.packbits(bits).tobytes(), frames=b"")


def find_copies(fingerprints: Sequence[bytes], distance: int) -> dict[int, int]:
    """Return which are copies, each with the first one that it is a copy of.

    In the order given, each that differs by less than `distance` bits from one kept before is a
    copy. All such pairs are found: cut in `distance` bands, they have one in common.
    """
    if not fingerprints:
        return {}
    prints = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, BYTES)
    unique, first, same = np.unique(prints, axis=0, return_index=True, return_inverse=True)
    same = same.reshape(-1)  # some releases of NumPy give it two dimensions
    near: dict[int, list[int]] = {}
    for one, other in _pairs(unique, distance):
        low, high = sorted((int(first[one]), int(first[other])))
        near.setdefault(high, []).append(low)
    copies: dict[int, int] = {}
    for index in range(len(prints)):
        earliest = int(first[same[index]])
        if earliest != index:
            copies[index] = copies.get(earliest, earliest)
        elif kept := [low for low in near.get(index, []) if low not in copies]:
            copies[index] = min(kept)
    return copies


def _pairs(prints: NDArray[np.uint8], distance: int) -> set[tuple[int, int]]:
    """Return the pairs that differ by less than `distance` bits."""
    order = np.random.Generator(np.random.PCG64(_MIXING)).permutation(BYTES)
    found: set[tuple[int, int]] = set()
    for band in np.array_split(order, distance):
        keys = prints[:, band]
        ranked = np.lexsort(keys.T)
        starts = np.flatnonzero((keys[ranked][1:] != keys[ranked][:-1]).any(1)) + 1
        for group in np.split(ranked, starts):
            for place, one in enumerate(group[:-1]):
                others = group[place + 1 :]
                differing = np.unpackbits(prints[others] ^ prints[one], axis=1).sum(1)
                found |= {(int(one), int(other)) for other in others[differing < distance]}
    return found
