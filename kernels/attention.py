"""Scaled dot-product attention over heads that lie side by side in the channel axis.

    attention(q, k, v) = softmax(q k^T / sqrt(d)) v        for every head of width d

Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.
"""

import torch
from torch.nn import functional

__all__ = ["attention"]


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    causal: bool = False,
) -> torch.Tensor:
    """Attend from `query` (N, Q, heads * d) to `key` and `value` (N, K, heads * d).

    `causal` hides later keys (Q must equal K). Returns (N, Q, heads * d) in the inputs' dtype.
    The tensors stay four-dimensional, which is what PyTorch's fused kernels ask for.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)
