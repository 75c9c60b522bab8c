"""The models that the server offers: bundles by name, with the limits of what may be requested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.hub import find_bundle
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Catalog", "Limits", "Model", "Range"]

_MIN_SIDE = 256
"""Pixels that every model may be asked for along a side; large models twice their default."""
_FRAMES = 4
"""Times the default."""
_MAX_CARD = 100_000
MAX_FPS = 32
MAX_GUIDANCE = 50.0
MAX_SEED = (1 << 53) - 1
"""JavaScript's numbers are exact up to here."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a setting may be."""

    min: int
    max: int
    multiple: int = 1

    def as_dict(self) -> dict[str, int]:
        """Return plain values for JSON."""
        return {"min": self.min, "max": self.max, "multiple": self.multiple}

    def refusal(self, value: int) -> str | None:
        """Return what a value should have been, or None where it is right."""
        if self.min <= value <= self.max and value % self.multiple == 0:
            return None
        kind = "" if self.multiple == 1 else f"a multiple of {self.multiple} "
        return f"give {kind}from {self.min} to {self.max}"


Limits = Mapping[str, Range]
"""By the name of the setting."""


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle with the name that requests use."""

    name: str
    bundle: Bundle
    is_default: bool

    @property
    def defaults(self) -> dict[str, Any]:
        """The bundle's own settings, by the names of requests."""
        own = self.bundle.manifest.defaults
        return {
            "width": own.width,
            "height": own.height,
            "num_frames": own.frames,
            "fps": own.fps,
            "num_inference_steps": own.steps,
            "guidance_scale": own.guidance,
        }

    @property
    def limits(self) -> Limits:
        """What a request may be, so that none takes the machine for hours."""
        manifest = self.bundle.manifest
        own, divisor = manifest.defaults, manifest.model.size_divisor
        side = max(_MIN_SIDE, 2 * own.width, 2 * own.height) // divisor * divisor
        return {
            "width": Range(divisor, side, divisor),
            "height": Range(divisor, side, divisor),
            "num_frames": Range(1, _FRAMES * own.frames),
            "num_inference_steps": Range(1, manifest.sampler.grid_steps),
            "fps": Range(1, MAX_FPS),
        }

    @property
    def created(self) -> int:
        """When the bundle was installed, in seconds since 1970."""
        return int(self.bundle.folder.stat().st_mtime)

    @property
    def card(self) -> str:
        """The bundle's README, or what its manifest says; Markdown."""
        path = self.bundle.folder / "README.md"
        if path.is_file() and not path.is_symlink():
            with path.open(encoding="utf-8", errors="replace") as file:
                return file.read(_MAX_CARD)
        manifest = self.bundle.manifest
        source = manifest.provenance.source or "unknown"
        weights = sum(stage.parameters for stage in manifest.stages.values()) / 1e6
        return (
            f"# {manifest.name}\n\n{manifest.licence}\n\n"
            f"- {weights:.1f} million weights, {self.bundle.bytes / 1e6:.0f} MB\n"
            f"- Made from `{source}`\n- SHA-256 of the manifest: `{self.bundle.digest}`\n"
        )


class Catalog:
    """All models, the default one first."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = {model.name: model for model in models}

    @classmethod
    def open(cls, named: Sequence[str]) -> "Catalog":
        """Open bundles given as `NAME=PATH` or `PATH`, or the built-in one for none.

        Raises BundleError, or RequestError for a name that is given twice.
        """
        models: list[Model] = []
        for text in named or [""]:
            name, has_name, path = text.rpartition("=")
            bundle = Bundle.open(find_bundle(path) if path else BUILTIN)
            name = name if has_name else bundle.manifest.name
            if any(model.name == name for model in models):
                raise RequestError(f"two bundles are called {name}: give --bundle NAME=PATH")
            models.append(Model(name, bundle, is_default=not models))
        return cls(models)

    @property
    def default(self) -> Model:
        """What is used where a request names none."""
        return next(iter(self.models.values()))

    def paths(self) -> dict[str, str]:
        """Return name to folder, for a worker."""
        return {name: str(Path(model.bundle.folder)) for name, model in self.models.items()}
