"""The models that the server offers: bundles by name, with the limits of what may be requested."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.hub import find_bundle
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.serve.job import Settings

__all__ = ["MAX_FPS", "MAX_GUIDANCE", "Model", "ModelObject", "Range", "open_models"]

_MIN_SIDE = 256
"""Pixels that every model may be asked for along a side; large models twice their default."""
_FRAMES = 4
"""Times the default."""
_MAX_CARD = 100_000
MAX_FPS = 32
MAX_GUIDANCE = 50.0


class Range(BaseModel):
    """What a setting may be."""

    min: int
    max: int
    multiple: int = 1

    def refusal(self, value: int) -> str | None:
        """Return what a value should have been, or None where it is right."""
        if self.min <= value <= self.max and value % self.multiple == 0:
            return None
        kind = "" if self.multiple == 1 else f"a multiple of {self.multiple} "
        return f"give {kind}from {self.min} to {self.max}"


class ModelObject(Settings):
    """A model with its defaults and limits, and the devices that have workers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["local"] = "local"
    default: bool
    limits: dict[str, Range]
    devices: list[str]
    prompts: list[str]
    """What it can be asked for, as whoever made it says."""
    card: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A bundle with the name that requests use."""

    name: str
    bundle: Bundle
    is_default: bool

    @property
    def defaults(self) -> Settings:
        """The bundle's own settings, by the names of requests."""
        return Settings.of(self.bundle.manifest.defaults)

    @property
    def limits(self) -> dict[str, Range]:
        """What a request may be, by the name of the setting: none takes the machine for hours."""
        manifest = self.bundle.manifest
        own, divisor = manifest.defaults, manifest.model.size_divisor
        side = max(_MIN_SIDE, 2 * own.width, 2 * own.height) // divisor * divisor
        return {
            "width": Range(min=divisor, max=side, multiple=divisor),
            "height": Range(min=divisor, max=side, multiple=divisor),
            "num_frames": Range(min=1, max=_FRAMES * own.frames),
            "num_inference_steps": Range(min=1, max=manifest.sampler.grid_steps),
            "fps": Range(min=1, max=MAX_FPS),
        }

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

    def shown(self, devices: Sequence[str]) -> ModelObject:
        """Return how the API shows it, where these devices have workers."""
        return ModelObject(
            id=self.name,
            created=int(self.bundle.folder.stat().st_mtime),
            default=self.is_default,
            limits=self.limits,
            devices=list(devices),
            prompts=list(self.bundle.manifest.prompts),
            card=self.card,
            **self.defaults.model_dump(),
        )


def open_models(named: Sequence[str]) -> dict[str, Model]:
    """Open bundles given as `NAME=PATH` or `PATH`, the default one first; the built-in for none.

    Raises BundleError, or RequestError for a name that is given twice.
    """
    models: dict[str, Model] = {}
    for text in named or [""]:
        name, has_name, path = text.rpartition("=")
        if path.startswith("~"):  # shells leave it after NAME=
            path = os.path.expanduser(path)  # noqa: PTH111 - leaves the home of nobody as it is
        bundle = Bundle.open(find_bundle(path) if path else BUILTIN)
        name = name if has_name else bundle.manifest.name
        if name in models:
            raise RequestError(f"two bundles are called {name}: give --bundle NAME=PATH")
        models[name] = Model(name, bundle, is_default=not models)
    return models
