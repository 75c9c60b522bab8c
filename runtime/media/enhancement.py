"""What is done to the pixels of a finished video: another size, more frames a second.

The model has no part in it: `Enhancement.record` says in the saved file what was generated and what
was made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.media.decoded import MAX_BYTES, MAX_FPS, MAX_FRAMES
from hummingbird_edge.runtime.media.interpolation import interpolate
from hummingbird_edge.runtime.media.upscaling import Upscaler, middle, upscale

__all__ = ["Enhancement", "describe", "records", "with_record"]

_RECORDS = "enhancements"
"""The setting with a record of each enhancement, in their order."""
_MAX_SIDE = 16_384


@dataclass(frozen=True, slots=True)
class Enhancement:
    """What is to be done."""

    width: int
    """Pixels; where the shape differs, the middle is shown."""
    height: int
    """Pixels."""
    upscaler: Upscaler | None = None
    """Goes before Lanczos."""
    fps: int | None = None
    """Frames a second, by motion-compensated interpolation; None leaves them."""
    by: str = "Video.enhanced"
    """What asked for it: this, or `hb-run` with an option."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("width", self.width, _MAX_SIDE),
            ("height", self.height, _MAX_SIDE),
            ("fps", self.fps or 1, MAX_FPS),
        ):
            if not 1 <= value <= most:
                raise RequestError(f"{name} is {value}: give 1 to {most}")

    def apply(self, frames: NDArray[np.uint8], fps: int) -> tuple[NDArray[np.uint8], int]:
        """Return frames (T, H, W, 3) uint8 at `fps` enhanced, and their frames a second.

        Raises RequestError where the result would not fit or `self.fps` is not more than `fps`.
        """
        self._check(len(frames), fps)
        if self.upscaler is not None or frames.shape[1:3] != (self.height, self.width):
            frames = upscale(frames, self.width, self.height, self.upscaler)
        if self.fps is None:
            return frames, fps
        return interpolate(frames, fps, self.fps), self.fps

    def _check(self, count: int, fps: int) -> None:
        """Raise RequestError where so many frames would be too many, or cannot be interpolated."""
        frames = count * (self.fps or fps) / fps
        if frames > MAX_FRAMES:
            raise RequestError(
                f"{frames:.0f} frames are more than the {MAX_FRAMES} that one video may have: "
                f"choose fewer a second"
            )
        if frames * self.width * self.height * 3 > MAX_BYTES:
            raise RequestError(
                f"{frames:.0f} frames of {self.width}x{self.height} take more than "
                f"{MAX_BYTES >> 30} GiB: choose a smaller size"
            )

    def record(self, shape: Sequence[int], fps: int) -> dict[str, object]:
        """Return what is done to frames of `shape` (T, H, W, 3) at `fps`, as plain values."""
        count, height, width, _ = shape
        left, top, right, bottom = middle(width, height, self.width, self.height)
        entry: dict[str, object] = {
            "by": self.by,
            "from": {"frames": count, "width": width, "height": height, "fps": fps},
            "width": self.width,
            "height": self.height,
        }
        if (width, height) != (self.width, self.height):
            entry["resize"] = "lanczos"
        if (right - left, bottom - top) != (width, height):
            entry["shown"] = [round(right - left, 2), round(bottom - top, 2)]
        if self.upscaler is not None:
            model = self.upscaler
            entry["upscaler"] = {"name": model.name, "sha256": model.sha256, "device": model.device}
        if self.fps is not None:
            entry |= {"interpolate": "motion", "fps": self.fps}
        return entry


def with_record(settings: Mapping[str, object], record: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a video after one more enhancement."""
    return {**settings, _RECORDS: [*records(settings), dict(record)]}


def records(settings: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the records in settings, which may be from a stranger's file."""
    found = settings.get(_RECORDS)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def describe(record: Mapping[str, object]) -> str:
    """Say what a record says; it may be from a stranger's file."""
    before = record.get("from")
    known = before if isinstance(before, Mapping) else {}
    was, now = _size(known), _size(record)
    model = record.get("upscaler")
    parts = [f"{known.get('frames')} frames of {was} at {known.get('fps')} a second"]
    if shown := record.get("shown"):
        parts.append(f"cut to the middle {shown}")
    if isinstance(model, Mapping):
        parts.append(f"enlarged by {model.get('name')}, then by Lanczos, to {now}")
    elif was != now:
        parts.append(f"resized to {now} by Lanczos")
    if record.get("interpolate"):
        parts.append(
            f"interpolated to {record.get('fps')} a second by FFmpeg's motion compensation"
        )
    return ", ".join(parts)


def _size(record: Mapping[str, object]) -> str:
    return f"{record.get('width')}x{record.get('height')}"
