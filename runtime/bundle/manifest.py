"""The facts of a bundle, as its `hummingbird.json` states them.

    {"format": "hummingbird-edge", "format_version": 1, "name": ..., "model": {...},
     "sampler": {...}, "defaults": {...}, "stages": {"unet": {"variants": [...]}, ...},
     "files": {"unet/model.onnx": {"bytes": ..., "sha256": ...}, ...},
     "provenance": {...}, "licence": "..."}

What the model is stands here; what the user asks for is a `Request`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.sampler import Sampler

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST",
    "MIN_PSNR_DB",
    "Defaults",
    "FileEntry",
    "Manifest",
    "ModelMetadata",
    "TiledConfig",
]

MANIFEST = "hummingbird.json"
FORMAT = "hummingbird-edge"
FORMAT_VERSION = 1
MIN_PSNR_DB = 30.0
"""Of the frames of a quantized model against those in float32, for `auto` to take it."""
_MAX = 4096
"""Of anything that a decoder for tiles counts."""

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the runtime must know of the networks."""

    latent_channels: int
    """Channels of a latent frame."""
    vae_downsampling: int
    """Pixels along one side of a latent pixel."""
    unet_downsampling: int
    """Latent pixels along one side of the U-Net's coarsest pixel."""
    scaling_factor: float
    """Latents are divided by this before they are decoded."""
    context_length: int
    """Tokens of a prompt."""
    context_width: int
    """Channels of an encoded token."""
    guidance_width: int | None
    """Width of the guidance-scale embedding; None where guidance takes a second pass."""

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


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What one file of the bundle must be like."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TiledConfig:
    """What decoding by tiles must know of the decoder's second half."""

    scale: int
    """Features along one side of a latent pixel."""
    layers: int
    """Normalizations, whose statistics are given and returned."""
    groups: int
    """Groups of each."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of a bundle."""

    name: str
    model: ModelMetadata
    sampler: Sampler
    defaults: Defaults
    stages: Mapping[str, Any]
    """Stage name to {"variants": [{"graph": path, "precision": ...}, ...], ...}."""
    files: Mapping[str, FileEntry]
    """Relative POSIX path to what is there."""
    provenance: Mapping[str, Any]
    licence: str
    tail: TiledConfig | None = None
    """Of a decoder that can be run by tiles."""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read `folder/hummingbird.json`; raises BundleError where it is missing, newer or bad."""
        path = folder / MANIFEST
        if not folder.exists():
            raise BundleError(f"there is no bundle at {folder}: check the path")
        if not path.is_file():
            raise BundleError(
                f"{folder} is no bundle, it has no {MANIFEST}: build one with hb-export build"
            )
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        # RecursionError is JSON nested without end.
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(
                f"{path} cannot be read ({error}): build or copy the bundle again"
            ) from error
        return cls.from_dict(entries, path)

    @classmethod
    def from_dict(cls, entries: Any, path: Path) -> "Manifest":
        """Check and convert parsed JSON; `path` is named in errors."""
        _check_format(entries, path)
        try:
            return cls(
                name=str(entries["name"]),
                model=_facts(ModelMetadata, entries["model"]),
                sampler=_facts(Sampler, entries["sampler"]),
                defaults=_facts(Defaults, entries["defaults"]),
                stages={str(k): _stage(v) for k, v in entries["stages"].items()},
                files={_safe(k): _facts(FileEntry, v) for k, v in entries["files"].items()},
                provenance=dict(entries["provenance"]),
                licence=str(entries["licence"]),
                tail=_tail(entries["stages"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                f"{path} does not state what a bundle needs "
                f"({type(error).__name__}: {error}): build the bundle again"
            ) from error

    def latent_to_rgb(self) -> NDArray[np.float32] | None:
        """Return the matrix (C + 1, 3) of quick previews, or None in a bundle without one."""
        rows = self.stages.get("vae_decoder", {}).get("latent_to_rgb")
        try:
            matrix = np.array(rows, np.float32)
        except (TypeError, ValueError, OverflowError):
            return None
        shape = (self.model.latent_channels + 1, 3)
        return matrix if matrix.shape == shape and np.isfinite(matrix).all() else None

    def precisions(self, stage: str) -> tuple[str, ...]:
        """Return the precisions of the graphs of `stage`: `float32`, `float16`, `int8`."""
        variants = self.stages.get(stage, {}).get("variants", ())
        return tuple(dict.fromkeys(str(v.get("precision", "float32")) for v in variants))

    def psnr_db(self, stage: str) -> float:
        """Return how near to float32 the frames are where `stage` is quantized, as measured then.

        Minus infinity where the bundle does not say.
        """
        variants = self.stages.get(stage, {}).get("variants", ())
        known = [v.get("psnr_db") for v in variants if v.get("precision") == "int8"]
        return min((float(p) for p in known if isinstance(p, int | float)), default=-math.inf)

    def trusted(self, stage: str) -> tuple[str, ...]:
        """Return the precisions that `auto` may take: all there are, but for a quantized graph
        that is too far from a float32 one beside it."""
        known = self.precisions(stage)
        if len(known) < 2 or self.psnr_db(stage) >= MIN_PSNR_DB:
            return known
        return tuple(precision for precision in known if precision != "int8")

    def graph(self, stage: str, device: str | None = None, precision: str = "float32") -> str:
        """Return the relative path of the graph of `stage` in `precision` for `device`.

        A variant that lists the device goes before one for all. Raises BundleError.
        """
        if stage not in self.stages:
            raise BundleError(
                f"bundle {self.name} has no {stage}, only {', '.join(self.stages)}: "
                f"build it again with that stage"
            )
        variants = [
            v for v in self.stages[stage]["variants"] if v.get("precision", "float32") == precision
        ]
        own = [v for v in variants if device is not None and device in v.get("devices", ())]
        common = [v for v in variants if "devices" not in v]
        if not own and not common:
            raise BundleError(
                f"bundle {self.name} has no {precision} graph of {stage} for {device}: "
                f"choose another --precision, or build it again"
            )
        return str([*own, *common][0]["graph"])


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


def _facts(kind: type[Facts], entries: Mapping[str, Any]) -> Facts:
    """Build dataclass `kind`, holding each entry to the type of its annotation."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name, value in entries.items():
        if name not in known:
            raise ValueError(f"unknown entry {name!r}")
        kinds: tuple[type, ...] = {
            "int": (int,),
            "float": (int, float),
            "str": (str,),
            "int | None": (int, type(None)),
        }[str(getattr(known[name].type, "__name__", known[name].type))]
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(f"{name} is {value!r}")
        least = 0 if name == "guidance" else 1e-12
        if isinstance(value, int | float) and not least <= value < float("inf"):
            raise ValueError(f"{name} is {value!r}")
    return kind(**entries)


def _stage(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Check that a stage names at least one graph inside the bundle."""
    variants = [{**v, "graph": _safe(v["graph"])} for v in entries["variants"]]
    for variant in variants:
        devices = variant.get("devices", [])
        if not isinstance(devices, list) or not all(isinstance(name, str) for name in devices):
            raise TypeError(f"devices is {devices!r}")
    if not variants:
        raise ValueError("a stage without variants")
    return {**entries, "variants": variants}


def _tail(stages: Mapping[str, Any]) -> TiledConfig | None:
    """Return the facts of a decoder in two halves, where there are two."""
    if "vae_decoder_tail" not in stages:
        return None
    if "vae_decoder_head" not in stages:
        raise ValueError("vae_decoder_tail without vae_decoder_head")
    facts = _facts(TiledConfig, stages["vae_decoder_tail"]["tiled"])
    if max(facts.scale, facts.layers, facts.groups) > _MAX:
        raise ValueError(f"tiled is {facts}")
    return facts


def _safe(name: str) -> str:
    """Return `name` where it is a plain relative path; a bundle never reaches outside itself."""
    parts = PurePosixPath(name).parts
    if (
        not parts
        or "\\" in name
        or "\0" in name
        or ".." in parts
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).drive
    ):
        raise ValueError(f"the path {name!r} leaves the bundle")
    return name
