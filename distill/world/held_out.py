"""Which captions are kept from training, in every world."""

import hashlib

__all__ = ["is_held_out"]


def is_held_out(caption: str) -> bool:
    """Tell whether `caption` is kept from training; about one in ten is."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big") % 10 == 0
