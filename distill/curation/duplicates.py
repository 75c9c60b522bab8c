"""Find clips that are near copies of others, whoever made them: by their fingerprints alone.

A fingerprint is a perceptual hash (Zauner 2010, "Implementation and benchmarking of perceptual
image hash functions", section on DCT): a bit for each low frequency of a small picture, whether
there is much of it; here of brightness and colour, and of three frames.
"""

from collections import defaultdict
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
    bits = np.unpackbits(prints, axis=1)[:, :BITS]
    groups = [_groups(bits[:, band::distance]) for band in range(distance)]
    kept = [defaultdict[int, list[int]](list) for _ in groups]
    copies: dict[int, int] = {}
    for index, own in enumerate(bits):
        alike = [
            band[group[index]] for band, group in zip(kept, groups, strict=True) if group[index]
        ]
        before = sorted(set().union(*alike))
        near = np.flatnonzero((bits[before] != own).sum(1) < distance)
        if near.size:
            copies[index] = before[int(near[0])]
            continue
        for each in alike:
            each.append(index)
    return copies


def _groups(bits: NDArray[np.uint8]) -> list[int]:
    """Return for each row a number that it shares with its equals, 0 where it has none."""
    keys = np.packbits(bits, axis=1)
    _, group, size = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)  # some releases of NumPy give it two dimensions
    numbers: list[int] = np.where(size[group] > 1, group + 1, 0).tolist()
    return numbers
