"""What a model is: the numbers from which the three networks are built.

The defaults are the published `hummingbird-0.7b`; `PRESETS` names the published family.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

from msgspec import Meta, ValidationError, convert

from hummingbird_edge.runtime.bundle.manifest import (
    Defaults,
    EmbeddingWidth,
    NonNegative,
    Positive,
    SmallCount,
    Width,
)
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.sampler import Sampler

__all__ = ["PRESETS", "ModelConfig", "TextConfig", "UNetConfig", "VAEConfig"]


Rows = Annotated[int, Meta(ge=1, le=1 << 22)]
Blocks = Annotated[int, Meta(ge=1, le=512)]
Level = Annotated[int, Meta(ge=0, le=16)]
Multipliers = Annotated[tuple[SmallCount, ...], Meta(min_length=1, max_length=8)]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RequestError(f"the model configuration cannot be built: {message}")


def _require_known(entries: object, part: type) -> None:
    """Raise RequestError where an object has an entry that `part`, a dataclass, has no field for.

    What is no object at all is left to the conversion.
    """
    known = {field.name for field in fields(part)}
    for name in entries if isinstance(entries, Mapping) else ():
        _require(
            name in known,
            f"unknown entry {str(name)[:100]!r}; known are {', '.join(sorted(known))}",
        )


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The text tower of OpenCLIP, read out before its last block."""

    vocab_size: Rows = 49408
    """Rows of the token embedding."""
    context_length: SmallCount = 77
    """Tokens a prompt is padded to."""
    width: Width = 1024
    """Channels of a token."""
    layers: Blocks = 24
    """Blocks in the checkpoint; the last one is not run."""
    heads: SmallCount = 16
    """Attention heads, width / heads channels each."""

    def __post_init__(self) -> None:
        _require(self.layers >= 2, f"the text encoder needs 2 or more layers, got {self.layers}")
        _require(
            self.heads > 0 and self.width % self.heads == 0,
            f"text width {self.width} does not divide into {self.heads} heads",
        )


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """The pruned VideoCrafter2 U-Net."""

    latent_channels: SmallCount = 4
    """Channels of a latent frame, in and out."""
    width: Width = 320
    """Channels of the first level; also the width of the timestep embedding."""
    multipliers: Multipliers = (1, 2, 4, 4)
    """Width of each level over `width`."""
    res_blocks: Blocks = 1
    """Residual blocks a level on the way down (one more on the way up)."""
    attention_levels: tuple[Level, ...] = (0, 1, 2)
    """Levels that have a spatial and a temporal transformer behind each residual block."""
    head_width: Width = 64
    """Channels of an attention head."""
    initial_heads: SmallCount = 8
    """Heads of the temporal transformer behind the first convolution."""
    context_width: Width = 1024
    """Channels of a text token."""
    middle_block: bool = False
    """Whether the block between the way down and the way up is there."""
    guidance_width: EmbeddingWidth | None = 256
    """Width of the guidance-scale embedding; None where guidance needs a second pass."""
    groups: SmallCount = 32
    """Groups of every group normalization."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        for multiplier in self.multipliers:
            channels = self.width * multiplier
            _require(
                channels % self.groups == 0 and channels % self.head_width == 0,
                f"{channels} U-Net channels do not divide into {self.groups} groups "
                f"and heads of {self.head_width}",
            )
        _require(
            all(0 <= level < len(self.multipliers) for level in self.attention_levels),
            f"attention levels {self.attention_levels} name a level that is not there",
        )

    @property
    def downsampling(self) -> int:
        """Latent pixels along one side of a pixel of the coarsest level."""
        return int(2 ** (len(self.multipliers) - 1))


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """Stable Diffusion's KL autoencoder, run frame by frame."""

    width: Width = 128
    """Channels of the finest level."""
    multipliers: Multipliers = (1, 2, 4, 4)
    """Width of each level over `width`, finest first."""
    res_blocks: Blocks = 2
    """Residual blocks a level of the encoder (one more in the decoder)."""
    latent_channels: SmallCount = 4
    """Channels of a latent."""
    groups: SmallCount = 32
    """Groups of every group normalization."""
    scaling_factor: Positive = 0.18215
    """Latents are multiplied by this before diffusion."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        for multiplier in self.multipliers:
            _require(
                (self.width * multiplier) % self.groups == 0,
                f"{self.width * multiplier} VAE channels do not divide into {self.groups} groups",
            )

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a latent pixel."""
        return int(2 ** (len(self.multipliers) - 1))


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The three networks together, and what the U-Net's output means."""

    text: TextConfig = field(default_factory=TextConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    prediction_type: str = "epsilon"
    """`epsilon`, `v_prediction` or `sample`."""
    method: str = "lcm"
    """How it is sampled: `lcm`, or `ddim` for a teacher."""
    spacing: str = "trailing"
    """Where its timesteps lie: `trailing`, or `leading` for VideoCrafter2."""
    temporal_noise: NonNegative = 0.0
    """Standard deviation of the noise between frames that the U-Net leaves in latents."""
    defaults: Defaults = field(default_factory=Defaults)
    """What a video is like where the user does not say."""

    def __post_init__(self) -> None:
        _require(
            self.unet.context_width == self.text.width,
            f"the U-Net reads text of width {self.unet.context_width}, "
            f"the text encoder makes {self.text.width}",
        )
        _require(
            self.unet.latent_channels == self.vae.latent_channels,
            f"the U-Net has {self.unet.latent_channels} latent channels, "
            f"the VAE {self.vae.latent_channels}",
        )
        try:
            self.sampler()
        except ValueError as error:
            _require(False, str(error))

    def sampler(self) -> Sampler:
        """Return the sampler that the model is made for."""
        return Sampler(
            prediction_type=self.prediction_type, method=self.method, spacing=self.spacing
        )

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "ModelConfig":
        """Build from nested JSON objects; raises RequestError naming an unknown or bad entry."""
        _require_known(entries, cls)
        parts = {"text": TextConfig, "unet": UNetConfig, "vae": VAEConfig, "defaults": Defaults}
        for name, part in parts.items():
            _require_known(entries.get(name), part)
        try:
            return convert(entries, cls)
        except (ValidationError, ValueError, OverflowError, RecursionError) as error:
            raise RequestError(f"the model configuration cannot be built: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain objects, ready for JSON and for `from_dict`."""
        return asdict(self)


_HUMMINGBIRD_07B = ModelConfig()
PRESETS: Mapping[str, ModelConfig] = {
    "hummingbird-0.7b": _HUMMINGBIRD_07B,
    "hummingbird-0.9b": replace(_HUMMINGBIRD_07B, unet=UNetConfig(middle_block=True)),
    "videocrafter2": replace(
        _HUMMINGBIRD_07B,
        unet=UNetConfig(res_blocks=2, middle_block=True, guidance_width=None),
        method="ddim",
        spacing="leading",
        defaults=Defaults(steps=50, guidance=12.0),
    ),
}
"""The published family (arXiv:2503.18559 for the students, arXiv:2401.09047 for the teacher)."""
