"""The text-to-video U-Net of VideoCrafter2 and of Hummingbird, its pruned students.

Parameters are named as published (the spelling `temopral_conv` is theirs). Frames travel folded
into the batch, (B * T, C, H, W); only temporal layers unfold them. The text context is never
repeated once a frame: all T * H * W queries of a clip attend to one set of keys and values.

Sources: arXiv:2401.09047 (VideoCrafter2), arXiv:2503.18559 (Hummingbird), arXiv:2405.18750
(T2V-Turbo, the guidance-scale embedding).
"""

import torch
from torch import nn

from hummingbird_edge.export.models.config import UNetConfig
from hummingbird_edge.kernels.attention import attention
from hummingbird_edge.kernels.embedding import condition_embedding
from hummingbird_edge.kernels.feed_forward import GEGLU
from hummingbird_edge.kernels.group_norm import GroupNormSiLU
from hummingbird_edge.kernels.temporal_conv import TemporalConv
from hummingbird_edge.kernels.upsample_conv import UpsampleConv

__all__ = ["CrossAttention", "UNet"]


def _unfold(x: torch.Tensor, frames: int) -> torch.Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def _fold(x: torch.Tensor) -> torch.Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


class TemporalConvBlock(nn.Module):
    """Four normalized temporal convolutions on a residual branch, (B, C, T, H, W)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()

        def stage(dropout: bool) -> nn.Sequential:
            # The published SiLU, index 1, is part of the kernel.
            layers: list[nn.Module] = [GroupNormSiLU(groups, channels), nn.Identity()]
            # The published blocks 2 to 4 hold a dropout, which moves the convolution to index 3.
            layers += [nn.Identity()] if dropout else []
            return nn.Sequential(*layers, TemporalConv(channels, channels))

        self.conv1 = stage(dropout=False)
        self.conv2 = stage(dropout=True)
        self.conv3 = stage(dropout=True)
        self.conv4 = stage(dropout=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        return x + y


class ResBlock(nn.Module):
    """A residual block of each frame, told the time, followed by a temporal one."""

    def __init__(self, channels: int, out_channels: int, emb_width: int, groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNormSiLU(groups, channels),
            nn.Identity(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, out_channels))
        self.out_layers = nn.Sequential(
            GroupNormSiLU(groups, out_channels),
            nn.Identity(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )
        self.temopral_conv = TemporalConvBlock(out_channels, groups)

    def forward(self, x: torch.Tensor, emb: torch.Tensor, frames: int) -> torch.Tensor:
        h = self.in_layers(x).unflatten(0, (-1, frames))
        h = (h + self.emb_layers(emb)[:, None, :, None, None]).flatten(0, 1)
        h = self.skip_connection(x) + self.out_layers(h)
        return _fold(self.temopral_conv(_unfold(h, frames)))


class CrossAttention(nn.Module):
    """Multi-head attention from (N, Q, width) to a context (N, K, context_width)."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        mixed = attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads)
        out: torch.Tensor = self.to_out(mixed)
        return out


class FeedForward(nn.Module):
    """GEGLU to four times the width and back; index 1 was a dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Self-attention, attention to a context (or to itself where there is none), feed-forward."""

    def __init__(self, width: int, heads: int, context_width: int | None) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context_width or width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        h = self.norm1(x)
        x = self.attn1(h, h) + x
        h = self.norm2(x)
        x = (self.attn2(h, h) if context is None else self._attend_text(h, context)) + x
        out: torch.Tensor = self.ff(self.norm3(x)) + x
        return out

    def _attend_text(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Let the queries of all frames of a clip, (B * T, Q, C), share one context (B, K, D)."""
        batch, queries = context.shape[0], x.shape[1]
        clip = x.reshape(batch, -1, x.shape[2])
        return self.attn2(clip, context).reshape(-1, queries, x.shape[2])


class SpatialTransformer(nn.Module):
    """Attend within each frame, then to the text."""

    def __init__(self, channels: int, heads: int, context_width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context_width)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        h = self.proj_out(self.transformer_blocks[0](h, context))
        return h.transpose(1, 2).unflatten(2, (height, width)) + x


class TemporalTransformer(nn.Module):
    """Attend along time at each pixel; no positions, so any number of frames runs.

    The first one of the network has projections published as convolutions over one element
    (`conv_projection`) and a width of its own.
    """

    def __init__(
        self, channels: int, width: int, heads: int, groups: int, conv_projection: bool
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = (
            nn.Conv1d(channels, width, 1) if conv_projection else nn.Linear(channels, width)
        )
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, None)])
        self.proj_out = (
            nn.Conv1d(width, channels, 1) if conv_projection else nn.Linear(width, channels)
        )

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        height, width = x.shape[2:]
        h = self.norm(_unfold(x, frames)).flatten(2).transpose(1, 2)
        # (B, T, H * W, C) -> (B * H * W, T, C) moves whole rows of channels: engines shuffle single
        # numbers where channels and time change places at once, a tenth of a step.
        h = h.unflatten(1, (frames, height * width)).transpose(1, 2).flatten(0, 1)
        h = _project(self.proj_in, h)
        h = _project(self.proj_out, self.transformer_blocks[0](h))
        h = h.unflatten(0, (-1, height * width)).transpose(1, 2).flatten(0, 1)
        return h.transpose(1, 2).unflatten(2, (height, width)) + x


def _project(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a linear layer, or a convolution over one element, to (N, L, C)."""
    weight = layer.weight.flatten(1) if isinstance(layer, nn.Conv1d) else layer.weight
    return nn.functional.linear(x, weight, layer.bias)  # type: ignore[arg-type]


class Downsample(nn.Module):
    """Halve height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = UpsampleConv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x)
        return out


class Stage(nn.ModuleList):
    """Layers run in order, each given what it needs besides the features."""

    def forward(
        self, x: torch.Tensor, emb: torch.Tensor, context: torch.Tensor, frames: int
    ) -> torch.Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb, frames)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            elif isinstance(layer, TemporalTransformer):
                x = layer(x, frames)
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """Predict what the sampler asks for (noise, as published) from noisy latents and text."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.emb_width = 4 * config.width
        self.time_embed = self._embedding_mlp()
        self.fps_embedding = self._embedding_mlp()
        if config.guidance_width is not None:
            self.time_cond_proj = nn.Linear(config.guidance_width, config.width, bias=False)
        first = nn.Conv2d(config.latent_channels, config.width, 3, padding=1)
        self.init_attn = Stage([self._initial_transformer()])
        skips = self._add_way_down(first)
        channels = config.width * config.multipliers[-1]
        if config.middle_block:
            self.middle_block = Stage(
                [
                    self._res_block(channels, channels),
                    *self._transformers(channels),
                    self._res_block(channels, channels),
                ]
            )
        self._add_way_up(channels, skips)
        self.out = nn.Sequential(
            GroupNormSiLU(config.groups, config.width),
            nn.Identity(),
            nn.Conv2d(config.width, config.latent_channels, 3, padding=1),
        )

    def _embedding_mlp(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(self.config.width, self.emb_width),
            nn.SiLU(),
            nn.Linear(self.emb_width, self.emb_width),
        )

    def _res_block(self, channels: int, out_channels: int) -> ResBlock:
        return ResBlock(channels, out_channels, self.emb_width, self.config.groups)

    def _initial_transformer(self) -> TemporalTransformer:
        c = self.config
        width = c.initial_heads * c.head_width
        return TemporalTransformer(c.width, width, c.initial_heads, c.groups, conv_projection=True)

    def _transformers(self, channels: int) -> list[nn.Module]:
        c = self.config
        heads = channels // c.head_width
        return [
            SpatialTransformer(channels, heads, c.context_width, c.groups),
            TemporalTransformer(channels, channels, heads, c.groups, conv_projection=False),
        ]

    def _level(self, level: int, channels: int, out_channels: int) -> list[nn.Module]:
        """Return a residual block and, where the level has them, its two transformers."""
        block: list[nn.Module] = [self._res_block(channels, out_channels)]
        has_attention = level in self.config.attention_levels
        return block + (self._transformers(out_channels) if has_attention else [])

    def _add_way_down(self, first: nn.Module) -> list[int]:
        """Build `input_blocks`; return the channels that each leaves for the way up."""
        config, channels = self.config, self.config.width
        self.input_blocks = nn.ModuleList([Stage([first])])
        skips = [channels]
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.res_blocks):
                block = self._level(level, channels, config.width * multiplier)
                channels = config.width * multiplier
                self.input_blocks.append(Stage(block))
                skips.append(channels)
            if level < len(config.multipliers) - 1:
                self.input_blocks.append(Stage([Downsample(channels)]))
                skips.append(channels)
        return skips

    def _add_way_up(self, channels: int, skips: list[int]) -> None:
        """Build `output_blocks`, each reading one skip connection."""
        config = self.config
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(config.multipliers))):
            out_channels = config.width * config.multipliers[level]
            for index in range(config.res_blocks + 1):
                block = self._level(level, channels + skips.pop(), out_channels)
                channels = out_channels
                if level > 0 and index == config.res_blocks:
                    block.append(Upsample(channels))
                self.output_blocks.append(Stage(block))

    def embed(
        self, timestep: torch.Tensor, timestep_cond: torch.Tensor | None, fps: torch.Tensor
    ) -> torch.Tensor:
        """Return what every residual block is told of time, guidance and frame rate, (B, E)."""
        guided = self.config.guidance_width is not None
        guidance = self.time_cond_proj(timestep_cond) if guided else None
        return condition_embedding(timestep, fps, guidance, self.time_embed, self.fps_embedding)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        fps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Denoise once.

        `sample` (B, 4, T, h, w) float; `timestep` and `fps` (B,) int64; `encoder_hidden_states`
        (B, 77, D); `timestep_cond` (B, G), left out for a model without a guidance embedding; `fps`
        8 where it is left out.
        Returns the prediction, shaped like `sample`. h and w divide by `config.downsampling`.
        """
        frames = sample.shape[2]
        context = encoder_hidden_states
        if fps is None:
            fps = torch.full_like(timestep, 8)
        emb = self.embed(timestep, timestep_cond, fps)
        h = _fold(sample)
        skips = []
        for index, block in enumerate(self.input_blocks):
            h = block(h, emb, context, frames)
            if index == 0:
                h = self.init_attn(h, emb, context, frames)
            skips.append(h)
        if self.config.middle_block:
            h = self.middle_block(h, emb, context, frames)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context, frames)
        return _unfold(self.out(h), frames)
