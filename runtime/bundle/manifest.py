"""A bundle's metadata, as its `hummingbird.json` states it.

    {"format": "hummingbird-edge", "format_version": 1, "name": ..., "model": {...},
     "sampler": {...}, "defaults": {...},
     "stages": {"unet": {"kind": "unet", "variants": [{"graph": path, ...}, ...], ...}, ...},
     "files": {"unet/model.onnx": {"bytes": ..., "sha256": ...}, ...},
     "prompts": [...], "provenance": {...}, "licence": "..."}

What the model is stands here; what the user wants of it is a `Request`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct, ValidationError, convert
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import read_json, require_inside
from hummingbird_edge.runtime.sampler import Sampler

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST",
    "MAX_GUIDANCE",
    "MAX_PROMPT",
    "MAX_SETTINGS",
    "MIN_PSNR_DB",
    "Agreement",
    "Defaults",
    "EmbeddingWidth",
    "FileEntry",
    "Manifest",
    "ModelMetadata",
    "NonNegative",
    "Positive",
    "Provenance",
    "SmallCount",
    "Stage",
    "StageKind",
    "TiledConfig",
    "Variant",
    "Width",
    "require_prompts",
]

MANIFEST = "hummingbird.json"
FORMAT = "hummingbird-edge"
FORMAT_VERSION = 1
MIN_PSNR_DB = 30.0
"""Of the frames of a quantized model against those in float32."""
_MIN_STAGE_PSNR_DB = MIN_PSNR_DB + 3
"""The same with one stage alone quantized, for `auto` to use it: two of them keep that."""
MAX_SETTINGS = {"frames": 10_000, "width": 16_384, "height": 16_384, "steps": 1000, "fps": 240}
"""Beyond these no machine or player follows, and arithmetic overflows."""
MAX_GUIDANCE = 10_000
MAX_PROMPT = 2000
"""Characters of a prompt from others: in a manifest, and in a body of the videos API."""
_MAX_PROMPTS = 64

Count = Annotated[int, Meta(ge=1, le=10**15)]
SmallCount = Annotated[int, Meta(ge=1, le=4096)]
Width = Annotated[int, Meta(ge=1, le=1 << 16)]
EmbeddingWidth = Annotated[int, Meta(ge=4, le=1 << 16, multiple_of=2)]
"""Of sines and cosines, two or more each."""
Positive = Annotated[float, Meta(gt=0, lt=1e9)]
NonNegative = Annotated[float, Meta(ge=0, lt=1e9)]


class StageKind(str, Enum):
    """What a stage takes and returns."""

    TEXT_ENCODER = "text_encoder"
    """`input_ids` (B, 77) int64 to a context (B, 77, D)."""
    UNET = "unet"
    """Noisy latents (1, C, T, h, w) and a timestep to a prediction of the same shape."""
    DECODER = "decoder"
    """Latents (T, C, h, w) to RGB (T, 3, H, W)."""
    DECODER_HEAD = "decoder_head"
    """The decoder's coarse half: latents to features."""
    DECODER_TAIL = "decoder_tail"
    """Its fine half: a tile of features to a tile of RGB."""
    ENCODER = "encoder"
    """RGB (T, 3, H, W) to latents."""


class ModelMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """What the runtime must know of the networks."""

    latent_channels: SmallCount
    """Channels of a latent frame."""
    vae_downsampling: SmallCount
    """Pixels along one side of a latent pixel."""
    unet_downsampling: SmallCount
    """Latent pixels along one side of the U-Net's coarsest pixel."""
    scaling_factor: Positive
    """Latents are divided by this before they are decoded."""
    context_length: SmallCount
    """Tokens of a prompt."""
    context_width: Width
    """Channels of an encoded token."""
    guidance_width: EmbeddingWidth | None
    """Width of the guidance-scale embedding; None where guidance takes a second pass."""
    temporal_noise: NonNegative = 0.0
    """Standard deviation of the noise that decoding removes from the U-Net's latents first."""

    @property
    def size_divisor(self) -> int:
        """What width and height must divide by, in pixels."""
        return self.vae_downsampling * self.unet_downsampling


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a video is like where the user does not say."""

    frames: int = 16
    width: int = 512
    height: int = 320
    steps: int = 4
    guidance: float = 7.5
    fps: int = 8

    def __post_init__(self) -> None:
        for name, most in MAX_SETTINGS.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, 1 to {most} can be")
        if not 0 <= self.guidance <= MAX_GUIDANCE:  # NaN fails too
            raise ValueError(f"guidance is {self.guidance}, 0 to {MAX_GUIDANCE} can be")


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """What one file of the bundle must be like."""

    bytes: Count
    sha256: str


class TiledConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What decoding by tiles must know of the decoder's fine half."""

    scale: SmallCount
    """Features along one side of a latent pixel."""
    layers: SmallCount
    """Normalizations, whose statistics are given and returned."""
    groups: SmallCount
    """Groups of each."""


class Variant(Struct, frozen=True):
    """One graph of a stage."""

    graph: str
    """Relative POSIX path."""
    precision: str = "float32"
    """`float32`, `float16` or `int8`."""
    devices: tuple[str, ...] | None = None
    """The devices it is for; None for all."""
    storage: str = "float32"
    """What its weights are stored as."""
    opset: int | None = None
    """Its ONNX operator set."""
    psnr_db: float | None = None
    """Of frames made with it, and all else in float32, against frames in float32 alone."""

    def __post_init__(self) -> None:
        require_inside(self.graph)


class Agreement(Struct, frozen=True):
    """How near a graph's outputs were to PyTorch's when it was exported."""

    largest_difference: float
    snr_db: float
    shapes: tuple[tuple[int, ...], ...] = ()
    """Frames, height and width of the latents it was compared at."""


class Stage(Struct, frozen=True):
    """One network of the bundle, as one or more graphs."""

    kind: StageKind
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]
    parameters: Annotated[int, Meta(ge=0, le=10**15)] = 0
    """Weights of its graph, which may hold sums of the network's."""
    live_values: Count | None = None
    """Numbers that are alive at once for each latent pixel; None where it was not counted."""
    flops: Count | None = None
    """Operations for each latent pixel, of a text encoder for a prompt; None if not counted."""
    takes_scaled_latents: bool = False
    """Of a decoder that takes the latents of diffusion as they are."""
    latent_to_rgb: list[list[float]] | None = None
    """Rows of the matrix of quick previews."""
    tiled: TiledConfig | None = None
    agreement_with_pytorch: Agreement | None = None
    largest_rounding_of_a_weight: float = 0.0
    """By what storing weights as float16 has changed one at most."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of its graphs: `float32`, `float16`, `int8`."""
        return tuple(dict.fromkeys(variant.precision for variant in self.variants))

    @property
    def psnr_db(self) -> float:
        """How near to float32 the frames are where it is quantized; minus infinity if unknown."""
        known = [
            v.psnr_db for v in self.variants if v.precision == "int8" and v.psnr_db is not None
        ]
        return min(known, default=-math.inf)

    @property
    def trusted(self) -> tuple[str, ...]:
        """The precisions that `auto` may use.

        All but those of a quantized graph that is too far from a float32 one.
        """
        known = self.precisions
        if len(known) < 2 or self.psnr_db >= _MIN_STAGE_PSNR_DB:
            return known
        return tuple(precision for precision in known if precision != "int8")


class Provenance(Struct, frozen=True):
    """Where the bundle is from; other entries are for readers of the file alone."""

    source: str | None = None
    source_sha256: str | None = None
    config: dict[str, Any] = {}
    """The exporter's model configuration, as JSON."""
    torch: str | None = None
    hummingbird_edge: str | None = None


class Manifest(Struct, frozen=True):
    """The metadata of a bundle."""

    name: str
    model: ModelMetadata
    sampler: Sampler
    defaults: Defaults
    stages: dict[str, Stage]
    files: dict[str, FileEntry]
    """Relative POSIX path to what is there."""
    provenance: Provenance
    licence: str
    prompts: tuple[str, ...] = ()
    """What the model can be asked for, as whoever made it says: examples, and what int8 is
    calibrated on."""

    def __post_init__(self) -> None:
        require_prompts(self.prompts)
        for name in self.files:
            require_inside(name)
        if "vae_decoder_tail" in self.stages and (
            "vae_decoder_head" not in self.stages or self.tiled is None
        ):
            raise ValueError("vae_decoder_tail needs vae_decoder_head and an entry `tiled`")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read `folder/hummingbird.json`; raises BundleError where it is missing, newer or bad."""
        path = folder / MANIFEST
        if not folder.exists():
            raise BundleError(
                f"there is no bundle at {folder}: check the path, or build one there first with "
                f"hb-export build CHECKPOINT {folder}"
            )
        if not path.is_file():
            raise BundleError(
                f"{folder} is no bundle, it has no {MANIFEST}: build one with hb-export build"
            )
        try:
            entries = read_json(path)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{path} cannot be read ({error}): build or copy the bundle again"
            ) from error
        return cls.from_dict(entries, path)

    @classmethod
    def from_dict(cls, entries: Any, path: Path) -> "Manifest":
        """Check and convert parsed JSON; `path` is named in errors."""
        _check_format(entries, path)
        try:
            return convert(_with_kinds(entries), cls)
        except (ValidationError, ValueError, OverflowError, RecursionError) as error:
            raise BundleError(
                f"{path} does not state what a bundle needs ({error}): build the bundle again"
            ) from error

    @property
    def tiled(self) -> TiledConfig | None:
        """The configuration of a decoder that can run by tiles."""
        tail = self.stages.get("vae_decoder_tail")
        return None if tail is None else tail.tiled

    @property
    def latent_to_rgb(self) -> NDArray[np.float32] | None:
        """The matrix (C + 1, 3) of quick previews, or None in a bundle without one."""
        decoder = self.stages.get("vae_decoder")
        try:
            matrix = np.array(decoder and decoder.latent_to_rgb, np.float32)
        except (ValueError, OverflowError):
            return None
        shape = (self.model.latent_channels + 1, 3)
        return matrix if matrix.shape == shape and np.isfinite(matrix).all() else None

    def stage(self, name: str) -> Stage:
        """Return a stage; raises BundleError where the bundle has none of this name."""
        if name not in self.stages:
            raise BundleError(
                f"bundle {self.name} has no {name}, only {', '.join(self.stages)}: "
                f"build it again with that stage"
            )
        return self.stages[name]

    def graph(self, stage: str, device: str | None = None, precision: str = "float32") -> str:
        """Return the relative path of the graph of `stage` in `precision` for `device`.

        A variant that lists the device goes before one for all. Raises BundleError.
        """
        variants = [v for v in self.stage(stage).variants if v.precision == precision]
        own = [v for v in variants if device is not None and device in (v.devices or ())]
        common = [v for v in variants if v.devices is None]
        if not own and not common:
            raise BundleError(
                f"bundle {self.name} has no {precision} graph of {stage} for {device}: "
                f"choose another --precision, or build it again"
            )
        return [*own, *common][0].graph


def require_prompts(prompts: Sequence[str]) -> None:
    """Raise ValueError for prompts that a manifest does not hold."""
    if len(prompts) > _MAX_PROMPTS:
        raise ValueError(f"there are {len(prompts)} prompts, {_MAX_PROMPTS} at most can be")
    for prompt in prompts:
        if not 1 <= (count := len(prompt.strip())) <= MAX_PROMPT:
            raise ValueError(f"a prompt has {count} characters, 1 to {MAX_PROMPT} can be")
        if not prompt.isprintable():
            raise ValueError(f"the prompt {prompt[:40]!r} has characters that cannot be printed")


def _check_format(entries: Any, path: Path) -> None:
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise BundleError(f"{path} is not the manifest of a {FORMAT} bundle: check the path")
    version = entries.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(f"{path} has format version {version!r}: build the bundle again")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version}, this program reads up to {FORMAT_VERSION}: "
            f"upgrade hummingbird-edge"
        )


_BY_NAME: Mapping[str, Mapping[str, object]] = {
    "text_encoder": {"kind": "text_encoder"},
    "unet": {"kind": "unet"},
    "vae_decoder": {"kind": "decoder"},
    "vae_decoder_head": {"kind": "decoder_head"},
    "vae_decoder_tail": {"kind": "decoder_tail"},
    "vae_encoder": {"kind": "encoder"},
    "tiny_decoder": {"kind": "decoder", "takes_scaled_latents": True, "live_values": 12_500},
}
"""What stages were whose kind stood in their name alone, before manifests said it."""


def _with_kinds(entries: dict[str, Any]) -> dict[str, Any]:
    stages = entries.get("stages")
    if not isinstance(stages, dict):
        return entries
    known = {
        name: {**_BY_NAME.get(name, {}), **entry}
        if isinstance(entry, dict) and "kind" not in entry
        else entry
        for name, entry in stages.items()
    }
    return {**entries, "stages": known}
