"""What a user asks for, held to what the model can do."""

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hummingbird_edge.runtime.bundle.manifest import (
    MAX_GUIDANCE,
    MAX_PROMPT,
    MAX_SETTINGS,
    Manifest,
)
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.plan import Sizes
from hummingbird_edge.runtime.placement.planner import stage_sizes

__all__ = [
    "EMPTY_PROMPT",
    "MAX_PROMPT",
    "MAX_SEED",
    "NAMES",
    "SECONDS",
    "SIZE",
    "Request",
    "parse_size",
    "settings_of_body",
]

_MAX_MODEL_FPS = 32
"""AMD runs the model at 8 and 16, and training here draws 4 to 24; beyond, motion is a guess."""
_DECODERS = {"full": "vae_decoder", "tiny": "tiny_decoder"}
NAMES = {
    "width": "width",
    "height": "height",
    "frames": "num_frames",
    "fps": "fps",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
}
"""The name of a setting here, and that of the videos API."""
EMPTY_PROMPT = "the prompt is empty: say what the video shows"
MAX_SEED = (1 << 53) - 1
"""Of a seed there: JavaScript's numbers are exact up to here."""
SIZE, SECONDS = r"^[0-9]{1,5}x[0-9]{1,5}$", r"^[0-9]{1,4}(\.[0-9]{1,3})?$"
"""What `size` and `seconds` look like there."""


@dataclass(frozen=True, slots=True)
class Request:
    """One video to be made."""

    prompt: str
    frames: int
    """Frames of the video, at least 1."""
    width: int
    """Pixels; divides by the model's size divisor."""
    height: int
    """Pixels; divides by the model's size divisor."""
    steps: int
    """Sampling steps, 1 to 50."""
    guidance: float
    """Guidance scale w, 0 or more."""
    fps: int
    """Frames a second, told to the model and used for playing."""
    seed: int
    """Fixes the noise; 0 or more."""
    decoder: str = "full"
    """`full` for the VAE's, `tiny` for a small one that the bundle may hold."""

    @classmethod
    def for_model(
        cls,
        manifest: Manifest,
        prompt: str,
        seed: int,
        decoder: str = "full",
        **asked: int | float | None,
    ) -> "Request":
        """Fill in the bundle's defaults for what is None, and check; raises RequestError."""
        defaults = asdict(manifest.defaults)
        values: dict[str, Any] = {
            name: defaults[name] if value is None else value for name, value in asked.items()
        }
        merged = {**defaults, **values, "seed": seed}
        try:
            # NumPy's integers pass, 8.5 frames do not.
            whole = {n: operator.index(v) for n, v in merged.items() if n != "guidance"}
            guidance = float(merged["guidance"])
        except (TypeError, ValueError, OverflowError) as error:
            raise RequestError(f"a setting is no number of its kind: {error}") from error
        request = cls(prompt=prompt, guidance=guidance, decoder=decoder, **whole)
        request._check(manifest)
        return request

    def _check(self, manifest: Manifest) -> None:
        if not self.prompt.strip():
            raise RequestError(EMPTY_PROMPT)
        for name, most in MAX_SETTINGS.items():
            value = getattr(self, name)
            if name != "steps" and not 1 <= value <= most:  # the sampler knows its own
                raise RequestError(f"{name} is {value}: give 1 to {most}")
        divisor = manifest.model.size_divisor
        for name in ("width", "height"):
            value = getattr(self, name)
            if value % divisor:
                below = value // divisor * divisor
                nearest = [size for size in (below, below + divisor) if size]
                raise RequestError(
                    f"{name} {value} does not divide by {divisor}, as {manifest.name} needs: "
                    f"try {' or '.join(str(size) for size in nearest)}"
                )
        if self.fps > _MAX_MODEL_FPS:
            raise RequestError(
                f"fps is {self.fps}, and the model knows {_MAX_MODEL_FPS} frames a second at most: "
                f"give less, or add --interpolate motion to have frames interpolated"
            )
        if not 0 <= self.guidance <= MAX_GUIDANCE:  # NaN fails too
            raise RequestError(f"guidance is {self.guidance}: give 0 to {MAX_GUIDANCE}")
        if self.seed < 0:
            raise RequestError(f"seed is {self.seed}: give 0 or more")
        manifest.sampler.timesteps(self.steps)
        if self.decoder not in _DECODERS:
            raise RequestError(f"the decoder is {self.decoder!r}: choose full or tiny")
        if self.decoding_stage not in manifest.stages:
            raise RequestError(
                f"{manifest.name} has no {self.decoder} decoder: leave --decoder out, or build the "
                f"bundle with hb-export build --tiny-decoder FILE"
            )

    @property
    def decoding_stage(self) -> str:
        """The stage of a bundle that decodes."""
        return _DECODERS[self.decoder]

    def latent_shape(self, manifest: Manifest) -> tuple[int, int, int, int, int]:
        """Return the shape of the latents, (1, C, T, h, w)."""
        model = manifest.model
        down = model.vae_downsampling
        return (1, model.latent_channels, self.frames, self.height // down, self.width // down)

    def stage_sizes(self, manifest: Manifest) -> dict[str, Sizes]:
        """Return the sizes of the free axes of each stage that makes the video."""
        return stage_sizes(manifest, self.latent_shape(manifest), self.decoding_stage)

    def settings(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    width, _, height = size.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise RequestError(f"--size is {size!r}: write WIDTHxHEIGHT, such as 64x64")
    return int(width), int(height)


def settings_of_body(body: Mapping[str, Any], fps: int) -> dict[str, Any]:
    """Return what a body of the videos API asks for, by the names here; None counts as left out.

    Seconds are counted at the body's frames a second, else at `fps`. Raises RequestError where
    `size` or `seconds` says other than what it is short for.
    """
    found = {old: body[new] for old, new in NAMES.items() if body.get(new) is not None}
    meant: dict[str, Any] = {}
    if body.get("size") is not None:
        width, height = parse_size(body["size"])
        meant = {"width": ("size", width), "height": ("size", height)}
    if body.get("seconds") is not None:
        frames = round(float(body["seconds"]) * found.get("fps", fps))
        meant["frames"] = ("seconds", frames)
    for name, (short, value) in meant.items():
        if found.setdefault(name, value) != value:
            raise RequestError(
                f"{short} is {body[short]} and {NAMES[name]} is {found[name]}, where {value} would "
                f"fit: leave one of them out"
            )
    return found
