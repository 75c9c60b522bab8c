"""What every format writes: frames, their rate, and the settings as text."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Clip"]


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames with what is stored beside them."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3) uint8 RGB, T, H, W >= 1."""
    fps: int
    """Frames a second, at least 1."""
    prompt: str
    """Any text; a container may show it as the title."""
    text: str
    """The settings as ASCII JSON, which no container mangles and which holds any prompt."""

    @classmethod
    def of(cls, frames: NDArray[np.uint8], fps: int, settings: Mapping[str, object]) -> "Clip":
        """Check the three and return them as a clip; raises RequestError."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise RequestError(
                f"frames must be non-empty (T, H, W, 3) uint8, but {frames.shape} {frames.dtype} "
                "was found: convert them first"
            )
        if fps < 1:
            raise RequestError(f"A video needs at least 1 frame a second, not {fps}: raise it")
        try:
            text = json.dumps(dict(settings), ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(
                f"settings cannot be stored as JSON ({error}): use only text, finite numbers, "
                "lists and mappings"
            ) from error
        return cls(frames, fps, str(settings.get("prompt", "")), text)

    def durations(self, unit: int) -> list[int]:
        """Return how many milliseconds each frame shows, in multiples of `unit` milliseconds."""
        # Rounding the edges, not the lengths, keeps the whole clip in time: 8 fps in a GIF is
        # 120, 130, 120 ... and not 120 throughout.
        edges = [round(i * 1000 / self.fps / unit) for i in range(len(self.frames) + 1)]
        return [max(1, end - start) * unit for start, end in itertools.pairwise(edges)]
