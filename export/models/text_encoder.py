"""OpenCLIP's text tower, read out before its last block.

Parameters are named as published, without the last block, which is never run. Sources: Radford
et al. 2021 (arXiv:2103.00020); the ViT-H-14 configuration of OpenCLIP; VideoCrafter2's
`FrozenOpenCLIPEmbedder` with layer "penultimate".
"""

import torch
from torch import nn
from torch.nn import functional

from hummingbird_edge.export.models.config import TextConfig
from hummingbird_edge.kernels.attention import attention

__all__ = ["TextEncoder"]


class SelfAttention(nn.Module):
    """Causal multi-head attention with the packed projection of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        out: torch.Tensor = self.out_proj(attention(q, k, v, self.heads, causal=True))
        return out


class MLP(nn.Module):
    """The feed-forward layer under its published names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.c_proj(functional.gelu(self.c_fc(x)))
        return out


class ResidualAttentionBlock(nn.Module):
    """A pre-normalized transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """The blocks that are run."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class TextEncoder(nn.Module):
    """Token ids to the hidden states that the U-Net attends to."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.transformer = Transformer(config.width, config.layers - 1, config.heads)
        self.ln_final = nn.LayerNorm(config.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Encode `input_ids` (B, 77) int64 to (B, 77, width)."""
        x = self.token_embedding(input_ids) + self.positional_embedding
        out: torch.Tensor = self.ln_final(self.transformer(x))
        return out
