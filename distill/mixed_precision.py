"""bfloat16 arithmetic in training, where the hardware has it.

CPUs without it compute it many times slower than float32: a step of the cartoons' VAE takes 20 s
instead of 2.3 s on one with AVX2 alone.
"""

from contextlib import AbstractContextManager
from functools import cache

import torch

__all__ = ["mixed_precision"]


def mixed_precision(device: torch.device | str) -> AbstractContextManager[object]:
    """Return a context in which products are bfloat16, or nothing changes where that is slow."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" or _cpu_has_bfloat16())


@cache
def _cpu_has_bfloat16() -> bool:
    # Both are private in PyTorch, which has no public question for it.
    found = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(found() if found else torch.ops.mkldnn._is_mkldnn_bf16_supported())
