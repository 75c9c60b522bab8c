"""A clip that may be worth training on, as it goes through the stages: a row of Parquet."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyarrow import Schema, Table

__all__ = ["SIDE", "Candidate", "from_table", "schema", "to_table"]

SIDE = 192
"""Pixels of the square frames that are measured."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scene of a video: where it is, what is known of it, and what each stage found.

    Before its video was read it stands for the whole video.
    """

    name: str
    """Of the video within its folder."""
    file: str
    """Of the video, what `open_file` takes."""
    version: str
    """Another one where the video or its captions changed."""
    captions: tuple[str, ...] = ()
    caption_file: str = ""
    scene: int = 0
    is_last: bool = True
    """Whether it is the video's last scene."""
    start: int = 0
    stop: int = 0
    """Frames [start, stop) of the video."""
    fps: float = 0.0
    width: int = 0
    height: int = 0
    fault: str = ""
    """Why it cannot be measured."""
    verdict: str = ""
    """Why it is dropped."""
    detail: str = ""
    """What was found at fault."""
    quality: float = 0.0
    smoothness: float = 0.0
    change: float = 0.0
    zoom: float = 0.0
    dolly: float = 0.0
    fingerprint: bytes = b""
    enriched: tuple[str, ...] = ()
    """Its captions with further wordings."""
    enriched_by: str = ""
    number: int = 0
    """Its place among those that are kept."""
    frames: bytes = b""
    """Evenly spaced ones (T, SIDE, SIDE, 3) uint8, while it is measured."""
    seconds: tuple[float, ...] = ()
    """What each stage of scoring took."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its video."""
        return self.scene == 0 and self.is_last

    @property
    def label(self) -> str:
        """Its name in reports, with the frames where it is a part of the video."""
        return self.name if self.is_whole else f"{self.name}#{self.start}-{self.stop}"

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Its frames (T, SIDE, SIDE, 3)."""
        return np.frombuffer(self.frames, np.uint8).reshape(-1, SIDE, SIDE, 3)

    def but(self, **changes: Any) -> "Candidate":
        """Return it with other values."""
        return replace(self, **changes)


def to_table(candidates: Iterable[Candidate]) -> "Table":
    """Return a row a clip."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(each) for each in candidates], schema=schema())


def from_table(table: "Table") -> list[Candidate]:
    """Return the clips of `to_table`'s result."""
    kinds = (tuple[str, ...], tuple[float, ...])
    sequences = [each.name for each in fields(Candidate) if each.type in kinds]
    return [
        Candidate(**row | {name: tuple(row[name]) for name in sequences})
        for row in table.to_pylist()
    ]


@cache
def schema() -> "Schema":
    """Return the columns of `to_table`."""
    import pyarrow as pa

    types: dict[Any, Any] = {
        str: pa.string(),
        int: pa.int64(),
        bool: pa.bool_(),
        float: pa.float64(),
        bytes: pa.binary(),
        tuple[str, ...]: pa.list_(pa.string()),
        tuple[float, ...]: pa.list_(pa.float64()),
    }
    return pa.schema([(each.name, types[each.type]) for each in fields(Candidate)])
