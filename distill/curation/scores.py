"""What is known of clips, kept in Parquet while it grows: a stopped run goes on from there.

OUT/part-00000.parquet, ...    what was found since the last whole run
OUT/clips.parquet              everything, by name
"""

import io
import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hummingbird_edge.distill.curation.candidate import Candidate, from_table, schema, to_table
from hummingbird_edge.distill.data.storage import Folder
from hummingbird_edge.runtime.errors import OutputError

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["ScoreTable"]

WHOLE = "clips.parquet"
_PART = re.compile(r"part-([0-9]{5,})\.parquet")
_METHOD = b"hummingbird-edge/curation/2"
"""Another one where clips are measured in another way."""
_PART_S, _PART_CLIPS = 10.0, 5000
"""When what was found is written; a kill loses no more than this."""


class ScoreTable:
    """The clips of OUT; a context that writes what is left at its end."""

    def __init__(self, folder: Folder) -> None:
        """Read what is there; raises OutputError where it is damaged."""
        self.folder = folder
        self.clips: dict[tuple[str, int], Candidate] = {}
        """By name and scene."""
        self._new: list[Candidate] = []
        self._written = time.monotonic()
        found = folder.find() if folder.exists("") else {}
        self._parts = sorted(filter(_PART.fullmatch, found), key=_number)
        for name in [WHOLE] * (WHOLE in found) + self._parts:
            for clip in self._read(name):
                self.clips[clip.name, clip.scene] = clip

    def __enter__(self) -> "ScoreTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def keep(self, videos: Sequence[Candidate]) -> list[Candidate]:
        """Forget clips of other videos or versions than these; returns the videos without any."""
        versions = {video.name: video.version for video in videos}
        scenes: dict[str, list[Candidate]] = {}
        for clip in self.clips.values():
            if versions.get(clip.name) == clip.version:
                scenes.setdefault(clip.name, []).append(clip)
        whole = {
            name
            for name, clips in scenes.items()
            if any(clip.is_last and clip.scene + 1 == len(clips) for clip in clips)
        }
        self.clips = {
            key: clip
            for key, clip in self.clips.items()
            if key[0] in whole and clip.version == versions[key[0]]
        }
        return [video for video in videos if video.name not in whole]

    def add(self, clips: Iterable[Candidate]) -> None:
        """Take what was found of some clips; it is written now and then."""
        for clip in clips:
            self.clips[clip.name, clip.scene] = clip
            self._new.append(clip)
        late = time.monotonic() - self._written > _PART_S
        if self._new and (late or len(self._new) >= _PART_CLIPS):
            self.flush()

    def flush(self) -> None:
        """Write a part; raises OSError."""
        if self._new:
            number = 1 + max(map(_number, self._parts), default=-1)
            name = f"part-{number:05d}.parquet"
            self._write(name, self._new)
            self._parts.append(name)
            self._new = []
        self._written = time.monotonic()

    def finish(self, clips: Iterable[Candidate]) -> None:
        """Write all clips in place of the parts; raises OSError."""
        self._write(WHOLE, clips)
        self._new = []
        for name in self._parts:
            self.folder.remove(name)
        self._parts = []

    def _write(self, name: str, clips: Iterable[Candidate]) -> None:
        import pyarrow.parquet as pq

        table, file = to_table(clips), io.BytesIO()
        table = table.drop_columns("frames").replace_schema_metadata({b"method": _METHOD})
        pq.write_table(table, file, compression="zstd")
        self.folder.write(name, file.getvalue())

    def _read(self, name: str) -> list[Candidate]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table: Table = pq.read_table(io.BytesIO(self.folder.read(name)))
            if (table.schema.metadata or {}).get(b"method") != _METHOD:
                return []
            kept = schema().remove(schema().get_field_index("frames"))
            return from_table(table.select(kept.names).cast(kept))
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self.folder.location(name)} is not a table of clips ({error}): delete it, or "
                f"choose another folder"
            ) from error


def _number(name: str) -> int:
    found = _PART.fullmatch(name)
    assert found is not None
    return int(found[1])
