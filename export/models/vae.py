"""Stable Diffusion's KL autoencoder, applied to each frame.

Parameters are named as published. Source: Rombach et al. 2022 (arXiv:2112.10752), `kl-f8`.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from hummingbird_edge.export.models.config import VAEConfig
from hummingbird_edge.kernels.attention import attention
from hummingbird_edge.kernels.upsample_conv import UpsampleConv

__all__ = ["VAE", "AttnBlock", "VAEDecoder", "VAEDecoderHead", "VAEDecoderTail", "VAEEncoder"]

Normalize = Callable[[nn.GroupNorm, torch.Tensor], torch.Tensor]
"""How a block applies one of its normalizations to features (N, C, h, w)."""

_FINE_LEVELS = 2
"""Levels of the decoder that are run by tiles: 4/5 of its memory, and no attention."""


def _whole(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Normalize by the statistics of all of `x`, as published."""
    out: torch.Tensor = norm(x)
    return out


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normalized convolutions on a residual branch."""

    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)
        self.has_shortcut = channels != out_channels

    def forward(self, x: torch.Tensor, normalize: Normalize = _whole) -> torch.Tensor:
        h = self.conv1(functional.silu(normalize(self.norm1, x)))
        h = self.conv2(functional.silu(normalize(self.norm2, h)))
        return (self.nin_shortcut(x) if self.has_shortcut else x) + h


class AttnBlock(nn.Module):
    """Single-head attention among the pixels of a frame; its projections are 1 x 1 convolutions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = attention(q, k, v, heads=1).transpose(1, 2).unflatten(2, (height, width))
        out: torch.Tensor = x + self.proj_out(mixed)
        return out


class Downsample(nn.Module):
    """Halve height and width, padding at the right and at the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = UpsampleConv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x)
        return out


class Level(nn.Module):
    """The residual blocks of one resolution and its way to the next."""

    def __init__(self, blocks: list[ResnetBlock]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)

    def forward(
        self, x: torch.Tensor, normalize: Normalize = _whole, resize: bool = True
    ) -> torch.Tensor:
        for block in self.block:
            x = block(x, normalize)
        for name in ("downsample", "upsample"):
            if resize and hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    """The coarsest resolution's blocks, with the only attention."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """RGB frames (N, 3, H, W) to features (N, 2 * latent_channels, h, w)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.width
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for index, multiplier in enumerate(config.multipliers):
            blocks = []
            for _ in range(config.res_blocks):
                blocks.append(ResnetBlock(channels, config.width * multiplier, config.groups))
                channels = config.width * multiplier
            level = Level(blocks)
            if index < len(config.multipliers) - 1:
                level.downsample = Downsample(channels)
            self.down.append(level)
        self.mid = Middle(channels, config.groups)
        self.norm_out = _norm(channels, config.groups)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        out: torch.Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """Features (N, latent_channels, h, w) to RGB frames (N, 3, H, W)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.width * config.multipliers[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.mid = Middle(channels, config.groups)
        levels: list[Level] = []
        for index in reversed(range(len(config.multipliers))):
            blocks = []
            for _ in range(config.res_blocks + 1):
                out_channels = config.width * config.multipliers[index]
                blocks.append(ResnetBlock(channels, out_channels, config.groups))
                channels = out_channels
            level = Level(blocks)
            if index > 0:
                level.upsample = Upsample(channels)
            levels.append(level)
        # Published finest first, run coarsest first.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _norm(channels, config.groups)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    @property
    def fine_norms(self) -> int:
        """How many normalizations `fine` applies."""
        levels = self.up[:_FINE_LEVELS]
        return 1 + sum(isinstance(m, nn.GroupNorm) for m in levels.modules())

    def coarse(self, z: torch.Tensor) -> torch.Tensor:
        """Run all that comes before the fine levels and the way up to them."""
        h = self.mid(self.conv_in(z))
        for index in reversed(range(_FINE_LEVELS, len(self.up))):
            h = self.up[index](h, resize=index > _FINE_LEVELS)
        return h

    def fine(self, h: torch.Tensor, normalize: Normalize = _whole) -> torch.Tensor:
        """Run what `coarse` leaves: a pixel hangs on features no more than 6 away."""
        if len(self.up) > _FINE_LEVELS:
            h = self.up[_FINE_LEVELS].get_submodule("upsample")(h)
        for level in reversed(self.up[:_FINE_LEVELS]):
            h = level(h, normalize)
        out: torch.Tensor = self.conv_out(functional.silu(normalize(self.norm_out, h)))
        return out

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.fine(self.coarse(z))


class VAE(nn.Module):
    """Encoder and decoder under their published names."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        doubled = 2 * config.latent_channels
        self.quant_conv = nn.Conv2d(doubled, doubled, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Map RGB (N, 3, H, W) in [-1, 1] to mean and log-variance (N, 2 * C, h, w), unscaled."""
        out: torch.Tensor = self.quant_conv(self.encoder(frames))
        return out

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Map unscaled latents (N, C, h, w) to RGB (N, 3, H, W), about [-1, 1], not clipped."""
        out: torch.Tensor = self.decoder(self.post_quant_conv(latents))
        return out


class VAEEncoder(nn.Module):
    """The encoding half as a graph of its own: `sample` -> `latent_parameters`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.quant_conv(self.encoder(sample))
        return out


class VAEDecoder(nn.Module):
    """The decoding half as a graph of its own: `latent_sample` -> `sample`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(self.post_quant_conv(latent_sample))
        return out


class VAEDecoderHead(nn.Module):
    """What a tiled decoder runs on the whole picture: `latent_sample` -> `features`.

    Features are (N, C, k * h, k * w) for latents (N, 4, h, w); k is 2 for the published network.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder.coarse(self.post_quant_conv(latent_sample))
        return out


class VAEDecoderTail(nn.Module):
    """What a tiled decoder runs tile by tile, its normalizations those of the whole picture.

    (`features`, `row_weights`, `column_weights`, `statistics`) -> (`sample`, `own_statistics`)
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder = vae.decoder

    def forward(
        self,
        features: torch.Tensor,
        row_weights: torch.Tensor,
        column_weights: torch.Tensor,
        statistics: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map a tile of features (N, C, h, w) to RGB and to its own statistics.

        `row_weights` (1, 1, h, 1) times `column_weights` (1, 1, 1, w), in [0, 1], say how much a
        feature counts in these. `statistics` (N, layers, 2, groups) hold mean and variance to
        normalize by, in the order in which the normalizations run; a negative variance asks for
        the tile's own.
        """
        normalize = _ByStatistics(row_weights, column_weights, statistics)
        sample = self.decoder.fine(features, normalize)
        return sample, torch.stack(normalize.own, dim=1)


class _ByStatistics:
    """Normalizes one tile by given statistics, gathering its own.

        y = (x - mean) / sqrt(var + eps) * g + b

    The own variance is taken around the mean in use, which is near: in bfloat16 the difference of
    two large moments would be noise. Averages are products with two vectors of weights, which need
    no weighted copy of the features.
    """

    def __init__(
        self, row_weights: torch.Tensor, column_weights: torch.Tensor, statistics: torch.Tensor
    ) -> None:
        self.row_weights, self.column_weights = row_weights, column_weights
        self.statistics = statistics
        self.own: list[torch.Tensor] = []

    def __call__(self, norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        given_mean, given_var = self.statistics[:, len(self.own)].unbind(1)
        is_given = given_var >= 0
        height, width = x.shape[2:]
        rows = functional.interpolate(self.row_weights, size=(height, 1))
        columns = functional.interpolate(self.column_weights, size=(1, width))
        down, right = (rows / rows.sum()).transpose(2, 3), (columns / columns.sum()).transpose(2, 3)

        def average(values: torch.Tensor) -> torch.Tensor:
            """Weigh (N, C, h, w) to (N, groups)."""
            by_channel = (down @ (values @ right)).flatten(1)
            return by_channel.unflatten(1, (norm.num_groups, -1)).mean(2)

        def spread(values: torch.Tensor) -> torch.Tensor:
            """Give every channel, (N, C, 1, 1), the value of its group, (N, groups)."""
            each = x.shape[1] // norm.num_groups
            return values[:, :, None].expand(-1, -1, each).flatten(1)[:, :, None, None]

        own_mean = average(x)
        mean = torch.where(is_given, given_mean, own_mean)
        centred = x - spread(mean)
        own_var = (average(centred * centred) - (own_mean - mean).square()).clamp(min=0)
        self.own.append(torch.stack((own_mean, own_var), dim=1))
        var = torch.where(is_given, given_var, own_var)
        scale = spread((var + norm.eps).rsqrt()) * norm.weight[:, None, None]
        return centred * scale + norm.bias[:, None, None]
