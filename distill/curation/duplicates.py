"""Find clips that are near copies of others, whoever made them: by their fingerprints alone.

A fingerprint is a perceptual hash (Zauner 2010, "Implementation and benchmarking of perceptual
image hash functions", section on DCT): a bit for each low frequency of a small picture, whether
there is much of it; here of brightness and colour, and of three frames.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.curation.candidate import Candidate

__all__ = ["BITS", "find_copies", "take_fingerprint"]

PICTURE = 32
"""Pixels of the square of which frequencies are taken."""
CHANNELS = ((8, 5.0), (4, 15.0), (4, 15.0))
"""Of Y, Cr and Cb: how many frequencies each way, and what is much, where 255 is full brightness.

Less than that is the noise of encoders; the first frequency is the mean, and left out."""
BITS = 3 * sum(count**2 - 1 for count, _ in CHANNELS)
BYTES = (BITS + 7) // 8


def take_fingerprint(clip: Candidate) -> Iterator[Candidate]:
    """Yield the clip with its fingerprint in place of its frames."""
    if clip.fault:
        yield clip
        return
    frames = clip.pixels
    chosen = (0, len(frames) // 2, len(frames) - 1)
    bits = np.concatenate([_frequencies(frames[index]) for index in chosen])
    yield clip.but(fingerprint=np.packbits(bits).tobytes(), frames=b"")


def _frequencies(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    import cv2

    small = cv2.resize(picture, (PICTURE, PICTURE), interpolation=cv2.INTER_AREA)
    channels = cv2.split(cv2.cvtColor(small.astype(np.float32), cv2.COLOR_RGB2YCrCb))
    return np.concatenate(
        [
            cv2.dct(channel)[:count, :count].ravel()[1:] > much
            for channel, (count, much) in zip(channels, CHANNELS, strict=True)
        ]
    )


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
    bits = np.unpackbits(prints, axis=1)[:, :BITS]
    found: set[tuple[int, int]] = set()
    for band in range(distance):
        keys = np.packbits(bits[:, band::distance], axis=1)  # each of all frequencies
        ranked = np.lexsort(keys.T)
        starts = np.flatnonzero((keys[ranked][1:] != keys[ranked][:-1]).any(1)) + 1
        for group in np.split(ranked, starts):
            for place, one in enumerate(group[:-1]):
                others = group[place + 1 :]
                differing = (bits[others] != bits[one]).sum(1)
                found |= {(int(one), int(other)) for other in others[differing < distance]}
    return found
