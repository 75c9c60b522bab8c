"""Scaled dot-product attention over heads that lie side by side in the channel axis.

    attention(q, k, v) = softmax(q k^T / sqrt(d)) v        for every head of width d

Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.

One function serves all three places: within a frame (N frames), along time (N pixels of T short
sequences, the tokens already in that order), and to the text, whose keys and values are computed
once for all frames because all T * H * W queries of a clip come as one sequence.

Lowerings: two products everywhere, which OpenVINO recognises and fuses; one node for ONNX Runtime's
CPU and DirectML, see `kernels.fused_attention`. Training on a CPU asks for the two products, too:
with PyTorch's own kernels, forward and back take one and a half to eight times as long on sequences
of up to 64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn import functional

__all__ = ["attention", "attention_in_products"]

_in_products = ContextVar("_in_products", default=False)


@contextmanager
def attention_in_products() -> Iterator[None]:
    """Compute attention that is not causal as two products while the context lasts."""
    token = _in_products.set(True)
    try:
        yield
    finally:
        _in_products.reset(token)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    causal: bool = False,
) -> torch.Tensor:
    """Attend from `query` (N, Q, heads * d) to `key` and `value` (N, K, heads * d).

    `causal` hides later keys (Q must equal K). Returns (N, Q, heads * d) in the inputs' dtype.
    """
    if not causal and (torch.compiler.is_exporting() or _in_products.get()):
        return _attention_in_products(query, key, value, heads)
    # Four-dimensional tensors are what PyTorch's fused kernels ask for.
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


def _attention_in_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int
) -> torch.Tensor:
    """Compute attention as two products, with the key's head axis transposed once.

    The exporter's own decomposition computes the key's shape at run time to swap its last axes;
    this one is MatMul, Softmax, MatMul and four Transposes.
    """
    scale = (query.shape[-1] // heads) ** -0.5
    q = (query * scale).unflatten(-1, (heads, -1)).transpose(1, 2)
    k = key.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1)
    v = value.unflatten(-1, (heads, -1)).transpose(1, 2)
    return ((q @ k).softmax(-1) @ v).transpose(1, 2).flatten(2)
