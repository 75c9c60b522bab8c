"""The jobs in SQLite: the one truth that the server, its workers and MCP processes share.

Each process has a connection of its own (write-ahead log, so that readers never wait). Every change
of a video adds a row to `changes`, by triggers, for whoever follows them.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.errors import OutputError

__all__ = ["FINISHED", "Change", "Job", "Jobs"]

FINISHED = ("completed", "failed", "cancelled")
"""Statuses after which nothing is done any more."""
_VERSION = 1
_BUSY_S = 10.0
_SCHEMA = Path(__file__).parent / "jobs.sql"


@dataclass(frozen=True, slots=True)
class Job:
    """One row: a video that is wanted, being made, or made."""

    number: int
    """Order of creation."""
    id: str
    status: str
    """`queued`, `in_progress`, `completed`, `failed` or `cancelled`."""
    rank: float
    """Order in the queue."""
    model: str
    prompt: str
    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    device: str
    """As requested: `auto`, or what one of the workers is for."""
    remixed_from: str | None
    command: str
    """The `hb-run` line that makes it again."""
    created_at: float
    """Seconds since 1970."""
    completed_at: float | None
    owner: str | None
    """`process_mark` of the worker that makes it."""
    deaths: int
    """Workers that died of it since its last step."""
    stage: str | None
    step: int | None
    """Parts of the stage that are done, of `steps`."""
    steps: int | None
    progress: int
    """0 to 100."""
    preview_step: int | None
    """The last step with a picture."""
    backends: Mapping[str, str]
    """Stage to what ran it."""
    promise: Mapping[str, Any] | None
    """`seconds` and `text`."""
    timings: Mapping[str, float] | None
    """Stage to seconds."""
    notes: Sequence[str]
    """What the runtime had to say."""
    error_code: str | None
    error_message: str | None
    pinned: bool
    bytes: int
    """Of its files."""

    @classmethod
    def of(cls, row: sqlite3.Row) -> "Job":
        """Convert a row."""
        values: dict[str, Any] = dict(row)
        for name in _JSON:
            values[name] = None if values[name] is None else json.loads(values[name])
        return cls(**{**values, "pinned": bool(values["pinned"])})


@dataclass(frozen=True, slots=True)
class Change:
    """That a video is another, or gone."""

    number: int
    id: str
    deleted: bool


_COLUMNS = tuple(field.name for field in fields(Job))
_JSON = ("backends", "promise", "timings", "notes")


class Jobs:
    """A connection to the jobs; for one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; raises OutputError where it is of a newer release."""
        # Without implicit transactions: every statement is one, where none is begun.
        self._sql = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        self._sql.row_factory = sqlite3.Row
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._sql.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            self.close()
            raise OutputError(
                f"{path} is of a newer release (format {version}, this one reads {_VERSION}): "
                f"update, or choose another folder with --data"
            )
        if version < _VERSION:
            schema = _SCHEMA.read_text(encoding="utf-8")
            version_too = f"PRAGMA user_version = {_VERSION};"
            self._sql.executescript(f"BEGIN IMMEDIATE;\n{schema}{version_too} COMMIT;")

    def close(self) -> None:
        """Close the connection."""
        self._sql.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is done within one change, which no other process divides."""
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise
        self._sql.execute("COMMIT")

    # What users want

    def add(self, values: Mapping[str, Any]) -> Job:
        """Add a video at the end of the queue."""
        entries = {**values, "id": f"video_{secrets.token_hex(16)}", "created_at": time.time()}
        names = ", ".join(entries)
        marks = ", ".join(f":{name}" for name in entries)
        rank = "(SELECT COALESCE(MAX(rank), 0) + 1 FROM videos)"
        statement = f"INSERT INTO videos (rank, {names}) VALUES ({rank}, {marks}) RETURNING *"
        return self._one(statement, entries)

    def find(self, key: str) -> Job | None:
        """Return the video of this id."""
        rows = self._sql.execute("SELECT * FROM videos WHERE id = ?", (key,)).fetchall()
        return Job.of(rows[0]) if rows else None

    def page(self, after: Job | None, limit: int, newest_first: bool) -> list[Job]:
        """Return at most `limit` videos that follow `after` by creation."""
        order, than = ("DESC", "<") if newest_first else ("ASC", ">")
        where = "" if after is None else f"WHERE number {than} {after.number}"
        rows = self._sql.execute(
            f"SELECT * FROM videos {where} ORDER BY number {order} LIMIT ?", (limit,)
        )
        return [Job.of(row) for row in rows]

    def queue(self) -> list[str]:
        """Return the ids of the queued videos, the next one first."""
        rows = self._sql.execute("SELECT id FROM videos WHERE status = 'queued' ORDER BY rank")
        return [row["id"] for row in rows]

    def count_open(self) -> int:
        """Return how many videos are queued or being made."""
        statement = "SELECT COUNT(*) FROM videos WHERE status IN ('queued', 'in_progress')"
        (count,) = self._sql.execute(statement).fetchone()
        return int(count)

    def count_ahead(self, job: Job) -> int:
        """Return how many queued videos come before this one."""
        statement = "SELECT COUNT(*) FROM videos WHERE status = 'queued' AND rank < ?"
        (count,) = self._sql.execute(statement, (job.rank,)).fetchone()
        return int(count)

    def statistics(self) -> dict[str, tuple[int, int]]:
        """Return of each status how many videos it has and the bytes of their files."""
        statement = "SELECT status, COUNT(*), SUM(bytes) FROM videos GROUP BY status"
        return {name: (count, size) for name, count, size in self._sql.execute(statement)}

    def move(self, key: str, position: int) -> bool:
        """Put a queued video at `position` of the queue, 0 is next; tell whether it is queued."""
        with self.transaction():
            statement = "SELECT id, rank FROM videos WHERE status = 'queued' ORDER BY rank"
            rows = [(row["id"], row["rank"]) for row in self._sql.execute(statement)]
            if key not in [name for name, _ in rows]:
                return False
            names = [name for name, _ in rows if name != key]
            names.insert(position, key)
            for name, (other, rank) in zip(names, rows, strict=True):
                if name != other:
                    self.update(name, rank=rank)
        return True

    def cancel(self, key: str) -> bool:
        """End a video that is queued or being made; tell whether it was."""
        found = self._sql.execute(
            "UPDATE videos SET status = 'cancelled', completed_at = ?, owner = NULL, stage = NULL "
            "WHERE id = ? AND status IN ('queued', 'in_progress')",
            (time.time(), key),
        )
        return found.rowcount > 0

    def requeue(self, key: str) -> bool:
        """Put a video that failed or was cancelled at the end of the queue again."""
        found = self._sql.execute(
            "UPDATE videos SET status = 'queued', completed_at = NULL, error_code = NULL, "
            "error_message = NULL, deaths = 0, rank = (SELECT MAX(rank) + 1 FROM videos) "
            "WHERE id = ? AND status IN ('failed', 'cancelled')",
            (key,),
        )
        return found.rowcount > 0

    def update(self, key: str, **values: Any) -> None:
        """Set columns of a video."""
        self._set("id = :key", {"key": key}, values)

    def delete(self, key: str) -> bool:
        """Remove a video; tell whether it was there."""
        return self._sql.execute("DELETE FROM videos WHERE id = ?", (key,)).rowcount > 0

    # What workers do

    def claim(self, owner: str, device: str) -> Job | None:
        """Take the next queued video that this worker's device may make."""
        where = "status = 'queued' AND device IN ('auto', ?)"
        first = f"SELECT id FROM videos WHERE {where} ORDER BY rank LIMIT 1"
        if self._sql.execute(first, (device,)).fetchone() is None:
            return None  # without the lock of a writer
        statement = (
            f"UPDATE videos SET status = 'in_progress', owner = ? WHERE id = ({first}) RETURNING *"
        )
        rows = self._sql.execute(statement, (owner, device)).fetchall()
        return Job.of(rows[0]) if rows else None

    def report(self, job: Job, by: str | None, /, **values: Any) -> bool:
        """Set columns of a video that the worker `by` makes; tell whether it still does."""
        where = "id = :key AND owner IS :by AND status = 'in_progress'"
        return self._set(where, {"key": job.id, "by": by}, values) > 0

    def in_progress(self) -> list[Job]:
        """Return what is being made."""
        rows = self._sql.execute("SELECT * FROM videos WHERE status = 'in_progress'")
        return [Job.of(row) for row in rows]

    def disposable(self) -> list[Job]:
        """Return the videos that may go, the oldest first."""
        rows = self._sql.execute(
            "SELECT * FROM videos WHERE pinned = 0 AND bytes > 0 AND "
            "status IN ('completed', 'failed', 'cancelled') ORDER BY completed_at, number"
        )
        return [Job.of(row) for row in rows]

    def ids(self) -> set[str]:
        """Return the ids of all videos."""
        return {row["id"] for row in self._sql.execute("SELECT id FROM videos")}

    # What followers read

    def last_change(self) -> int:
        """Return the number of the newest change."""
        (number,) = self._sql.execute("SELECT COALESCE(MAX(number), 0) FROM changes").fetchone()
        return int(number)

    def changes(self, after: int) -> list[Change]:
        """Return what has changed since, in order."""
        rows = self._sql.execute("SELECT * FROM changes WHERE number > ? ORDER BY number", (after,))
        return [Change(row["number"], row["id"], bool(row["deleted"])) for row in rows]

    def _one(self, statement: str, values: Mapping[str, Any]) -> Job:
        (row,) = self._sql.execute(statement, values).fetchall()
        return Job.of(row)

    def _set(self, where: str, keys: Mapping[str, Any], values: Mapping[str, Any]) -> int:
        assert values.keys() <= set(_COLUMNS)
        known = {n: json.dumps(v) if n in _JSON and v is not None else v for n, v in values.items()}
        columns = ", ".join(f"{name} = :{name}" for name in known)
        return self._sql.execute(
            f"UPDATE videos SET {columns} WHERE {where}", {**known, **keys}
        ).rowcount
