"""A finished video: frames, latents, how long each part took, how it was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import GenerationError
from hummingbird_edge.runtime.media.video import check_output, write_video
from hummingbird_edge.runtime.request import Request

__all__ = ["Timings", "Video", "check_frames", "check_latents", "to_pixels"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent, loading and computing apart."""

    load_s: Mapping[str, float]
    """Stage name to the seconds its session took to make."""
    text_encoder_s: float
    unet_step_s: tuple[float, ...]
    """One entry a sampling step."""
    vae_decoder_s: float

    @property
    def total_s(self) -> float:
        """Everything together."""
        computing = self.text_encoder_s + sum(self.unet_step_s) + self.vae_decoder_s
        return sum(self.load_s.values()) + computing

    def __str__(self) -> str:
        steps = self.unet_step_s
        return (
            f"load {sum(self.load_s.values()):.2f} s, text {self.text_encoder_s:.2f} s, "
            f"U-Net {len(steps)} x {sum(steps) / len(steps):.2f} s, "
            f"VAE {self.vae_decoder_s:.2f} s, total {self.total_s:.2f} s"
        )


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

    def save(self, path: str | Path) -> Path:
        """Write .mp4, .gif, .webp, or a folder of PNG frames; returns the path."""
        path = Path(path)
        check_output(path)
        write_video(path, self.frames, self.request.fps, self.settings)
        return path


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
    if not np.isfinite(frames).all():
        raise GenerationError(
            "the decoder gave frames with NaN or infinite values: "
            "try --device cpu, or build the bundle again"
        )
    shades = np.clip(frames, -1, 1)
    spread = float((shades.max(axis=(0, 2, 3)) - shades.min(axis=(0, 2, 3))).max())
    if spread < 4 / 255:
        raise GenerationError(
            "the decoder gave black or constant frames: try --device cpu, or build the bundle again"
        )


def to_pixels(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn RGB (T, 3, H, W) in about [-1, 1] into (T, H, W, 3) uint8."""
    pixels = np.clip(np.rint((frames + 1) * 127.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
