"""What the pipeline returns: progress on the way, then a video that knows how it was made."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.errors import GenerationError
from hummingbird_edge.runtime.media.enhancement import Enhancement, with_record
from hummingbird_edge.runtime.media.video import check_output, write_video
from hummingbird_edge.runtime.placement.plan import Placement
from hummingbird_edge.runtime.placement.promise import Promise
from hummingbird_edge.runtime.placement.stages import Memory
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.timings import Timings

__all__ = [
    "Denoised",
    "Part",
    "Progress",
    "Video",
    "check_frames",
    "check_latents",
    "settings_of",
    "to_pixels",
]


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """What the model made."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3) uint8 RGB."""
    latents: NDArray[np.float32]
    """(1, C, T, h, w) float32, denoised, scaled as in diffusion."""
    timings: Timings
    request: Request
    settings: Mapping[str, object]
    """What is embedded in a saved file: request, model, bundle digest, devices, version."""
    memory: Memory
    fps: int | None = None
    """Frames a second, where they are not the request's."""

    @classmethod
    def of(
        cls,
        pixels: NDArray[np.float32],
        latents: NDArray[np.float32],
        timings: Timings,
        request: Request,
        settings: Mapping[str, object],
        memory: Memory,
    ) -> "Video":
        """Make a video of decoded RGB (T, 3, H, W) in about [-1, 1].

        Raises GenerationError where it shows nothing.
        """
        check_frames(pixels)
        return cls(to_pixels(pixels), latents, timings, request, settings, memory)

    def save(self, path: str | Path) -> Path:
        """Write .mp4, .gif, .webp, or a folder of PNG frames; returns the path."""
        path = Path(path)
        check_output(path)
        write_video(path, self.frames, self.fps or self.request.fps, self.settings)
        return path

    def enhanced(
        self,
        *,
        width: int | None = None,
        height: int | None = None,
        upscaler: str | Path | None = None,
        fps: int | None = None,
    ) -> "Video":
        """Return it in another size, and with more frames a second; what is None stays.

        `upscaler` is an ONNX super-resolution model that goes before Lanczos; `fps` is reached by
        FFmpeg's motion-compensated interpolation. What is saved says so.
        Raises RequestError or DeviceError.
        """
        from hummingbird_edge.runtime.engines.upscaler import OnnxUpscaler

        model = None if upscaler is None else OnnxUpscaler(Path(upscaler))
        sides = width or self.frames.shape[2], height or self.frames.shape[1]
        return self.with_enhancement(Enhancement(*sides, model, fps))

    def with_enhancement(self, enhancement: Enhancement) -> "Video":
        """Return what `enhancement` makes of it; raises as `enhanced` does."""
        now = self.fps or self.request.fps
        frames, fps = enhancement.apply(self.frames, now)
        settings = with_record(self.settings, enhancement.record(self.frames.shape, now))
        return replace(self, frames=frames, fps=fps, settings=settings)


@dataclass(frozen=True, slots=True, eq=False)
class Denoised:
    """A video that is still to be decoded."""

    latents: NDArray[np.float32]
    """(1, C, T, h, w) float32, of the last step."""
    timings: Timings
    memory: Memory


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """What a caller hears while a video is made."""

    stage: str
    """`plan`, `text_encoder`, `unet`, `vae_decoder`, `tiny_decoder`, or `done`."""
    index: int
    """How much of the stage is done, 1 to `count`."""
    count: int
    seconds: float
    """What this part took."""
    denoised: NDArray[np.float32] | None = None
    """After a U-Net step, its denoised latents (1, C, T, h, w)."""
    latents: NDArray[np.float32] | None = None
    """After a U-Net step, what the next one starts from; after the last one, what is decoded."""
    promise: Promise | None = None
    """What to expect, when all is planned and nothing is loaded."""
    video: Video | None = None
    """The result, when all is done."""
    handover: Denoised | None = None
    """The result where decoding is left to another."""

    @property
    def share(self) -> float:
        """How much of the stage is done, in (0, 1]."""
        return self.index / self.count


Returned = TypeVar("Returned")
Part = Generator[Progress, None, Returned]
"""A part of a video being made: tells of its progress, returns its result."""


def settings_of(
    request: Request,
    bundle: Bundle,
    placements: Mapping[str, Placement],
    is_noise_given: bool = False,
) -> dict[str, object]:
    """Return what a saved file says of how it was made, as plain values for JSON."""
    from importlib.metadata import version

    settings = {
        **request.settings(),
        "model": bundle.manifest.name,
        "bundle_sha256": bundle.digest,
        "devices": {stage: p.backend.device.name for stage, p in placements.items()},
        "precisions": {stage: str(p.backend.precision) for stage, p in placements.items()},
        "version": version("hummingbird-edge"),
    }
    return {**settings, "noise": "given"} if is_noise_given else settings


def check_latents(latents: NDArray[np.float32], step: int) -> None:
    """Raise GenerationError where `latents` are not all finite."""
    if not np.isfinite(latents).all():
        bad = int((~np.isfinite(latents)).sum())
        raise GenerationError(
            f"step {step} gave {bad} latent values of {latents.size} that are NaN or infinite: "
            f"try --device cpu, or build the bundle again"
        )


def check_frames(frames: NDArray[np.float32]) -> None:
    """Raise GenerationError where frames (T, 3, H, W) are not finite or hold a single colour."""
    high, low = frames.max(axis=(0, 2, 3)), frames.min(axis=(0, 2, 3))  # NaN goes through both
    if not (np.isfinite(high) & np.isfinite(low)).all():
        raise GenerationError(
            "the decoder gave frames with NaN or infinite values: "
            "try --device cpu, or build the bundle again"
        )
    spread = float((np.clip(high, -1, 1) - np.clip(low, -1, 1)).max())
    if spread < 4 / 255:
        raise GenerationError(
            "the decoder gave black or constant frames: try --device cpu, or build the bundle again"
        )


def to_pixels(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn RGB (T, 3, H, W) in about [-1, 1] into (T, H, W, 3) uint8."""
    count, _, height, width = frames.shape
    pixels = np.empty((count, height, width, 3), np.uint8)
    for frame, shown in zip(frames, pixels, strict=True):  # one fits in the cache, all do not
        levels = (frame + 1) * 127.5
        np.clip(np.rint(levels, out=levels), 0, 255, out=levels)
        shown[...] = levels.astype(np.uint8).transpose(1, 2, 0)
    return pixels
