"""The jobs in SQLite: the one truth that the server, its workers and MCP processes share.

Each process has a connection of its own (write-ahead log, so that readers never wait). Every change
of a video adds a row to `changes`, by triggers, for whoever follows them.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.serve.job import Job

__all__ = ["Jobs"]

_SCHEMAS = ("jobs-1.sql", "jobs-2.sql")
"""What makes a file of each format from the one before."""
_BUSY_S = 10.0


class Jobs:
    """A connection to the jobs; for one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; raises OutputError where it is of a newer release."""
        # Without implicit transactions: every statement is one, where none is begun.
        self._sql = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        self._sql.row_factory = sqlite3.Row
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = NORMAL")
        if (version := self._number("PRAGMA user_version")) > len(_SCHEMAS):
            self.close()
            raise OutputError(
                f"{path} is of a newer release (format {version}, this one reads {len(_SCHEMAS)}): "
                f"update, or choose another folder with --data"
            )
        if version < len(_SCHEMAS):
            self._upgrade()

    def _upgrade(self) -> None:
        with self.transaction():
            for name in _SCHEMAS[self._number("PRAGMA user_version") :]:
                schema = (Path(__file__).parent / name).read_text(encoding="utf-8")
                for statement in schema.split("\n\n"):
                    self._sql.execute(statement)
            self._sql.execute(f"PRAGMA user_version = {len(_SCHEMAS)}")

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

    def add(self, **values: Any) -> str:
        """Add a video at the end of the queue; returns its id."""
        key = f"video_{secrets.token_hex(16)}"
        values |= {"id": key, "created_at": int(time.time()), "rank": self._last_rank()}
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        self._sql.execute(f"INSERT INTO videos ({names}) VALUES ({marks})", _plain(values))
        return key

    def find(self, key: str) -> Job | None:
        """Return the video of this id."""
        return next(iter(self._select("WHERE id = ?", key)), None)

    def page(self, after: str | None, limit: int, newest_first: bool = True) -> list[Job]:
        """Return at most `limit` videos that follow the one of id `after` by creation."""
        order, than = ("DESC", "<") if newest_first else ("ASC", ">")
        where = f"WHERE ? IS NULL OR number {than} (SELECT number FROM videos WHERE id = ?)"
        return self._select(f"{where} ORDER BY number {order} LIMIT ?", after, after, limit)

    def in_progress(self) -> list[Job]:
        """Return what is being made."""
        return self._select("WHERE status = 'in_progress'")

    def queue(self) -> list[str]:
        """Return the ids of the queued videos, the next one first."""
        return self._column("SELECT id FROM videos WHERE status = 'queued' ORDER BY rank")

    def stopped(self) -> list[Job]:
        """Return the videos that ended before they were made, the newest first."""
        return self._select("WHERE status IN ('failed', 'cancelled') ORDER BY number DESC")

    def disposable(self) -> list[Job]:
        """Return the videos that may go, the oldest first."""
        return self._select(
            "WHERE pinned = 0 AND bytes > 0 AND status IN ('completed', 'failed', 'cancelled') "
            "ORDER BY completed_at, number"
        )

    def ids(self) -> set[str]:
        """Return the ids of all videos."""
        return set(self._column("SELECT id FROM videos"))

    def count(self, *statuses: str) -> int:
        """Return how many videos have one of these statuses."""
        marks = ", ".join("?" for _ in statuses)
        return self._number(f"SELECT COUNT(*) FROM videos WHERE status IN ({marks})", *statuses)

    def total_bytes(self) -> int:
        """Return the bytes of all videos' files."""
        return self._number("SELECT COALESCE(SUM(bytes), 0) FROM videos")

    def move(self, key: str, position: int) -> bool:
        """Put a queued video at `position` of the queue, 0 is next; tell whether it is queued."""
        with self.transaction():
            queue = self.queue()
            if key not in queue:
                return False
            ranks = self._column("SELECT rank FROM videos WHERE status = 'queued' ORDER BY rank")
            moved = [name for name in queue if name != key]
            moved.insert(position, key)
            for name, before, rank in zip(moved, queue, ranks, strict=True):
                if name != before:
                    self.update(name, rank=rank)
        return True

    def cancel(self, key: str) -> bool:
        """End a video that is queued or being made; tell whether it was."""
        where = "id = :key AND status IN ('queued', 'in_progress')"
        ended = {"completed_at": int(time.time()), "owner": None, "stage": None}
        return self._set(where, {"status": "cancelled", **ended}, key=key)

    def requeue(self, key: str) -> bool:
        """Put a video that failed or was cancelled at the end of the queue again."""
        where = "id = :key AND status IN ('failed', 'cancelled')"
        values = {"status": "queued", "rank": self._last_rank(), "deaths": 0}
        empty = dict.fromkeys(("completed_at", "error_code", "error_message"))
        return self._set(where, {**values, **empty}, key=key)

    def update(self, key: str, **values: Any) -> bool:
        """Set columns of a video; tell whether it is there."""
        return self._set("id = :key", values, key=key)

    def delete(self, key: str) -> bool:
        """Remove a video; tell whether it was there."""
        return self._sql.execute("DELETE FROM videos WHERE id = ?", (key,)).rowcount > 0

    def free(self, devices: Iterable[str]) -> None:
        """Let any worker make queued videos that are for other devices than these."""
        others = "status = 'queued' AND device NOT IN (SELECT value FROM json_each(:known))"
        self._set(others, {"device": "auto"}, known=["auto", *devices])

    # What workers do

    def claim(self, owner: str, device: str, models: Iterable[str]) -> Job | None:
        """Take the next queued video that a worker with this device and these models may make."""
        where = "status = 'queued' AND device IN ('auto', ?)"
        where += " AND model IN (SELECT value FROM json_each(?))"
        first = f"SELECT id FROM videos WHERE {where} ORDER BY rank LIMIT 1"
        values = {"status": "in_progress", "owner": owner}
        # Another worker may be faster.
        for key in self._column(first, device, json.dumps([*models])):
            if self._set("id = :key AND status = 'queued'", values, key=key):
                return self.find(key)
        return None

    def report(self, job: Job, by: str | None, /, **values: Any) -> bool:
        """Set columns of a video that the worker `by` makes; tell whether it still does."""
        where = "id = :key AND owner IS :by AND status = 'in_progress'"
        return self._set(where, values, key=job.id, by=by)

    # What followers read

    def last_change(self) -> int:
        """Return the number of the newest change."""
        return self._number("SELECT COALESCE(MAX(number), 0) FROM changes")

    def changes(self, after: int) -> list[tuple[int, str]]:
        """Return number and video of each change since, in order."""
        statement = "SELECT number, id FROM changes WHERE number > ? ORDER BY number"
        return [(row["number"], row["id"]) for row in self._sql.execute(statement, (after,))]

    def _select(self, rest: str, *arguments: Any) -> list[Job]:
        rows = self._sql.execute(f"SELECT * FROM jobs {rest}", arguments)
        return [Job.model_validate(dict(row)) for row in rows]

    def _column(self, statement: str, *arguments: Any) -> list[Any]:
        return [row[0] for row in self._sql.execute(statement, arguments)]

    def _number(self, statement: str, *arguments: Any) -> int:
        return int(self._column(statement, *arguments)[0])

    def _last_rank(self) -> int:
        return self._number("SELECT COALESCE(MAX(rank), 0) + 1 FROM videos")

    def _set(self, where: str, values: dict[str, Any], **keys: Any) -> bool:
        columns = ", ".join(f"{name} = :{name}" for name in values)
        statement = f"UPDATE videos SET {columns} WHERE {where}"
        return self._sql.execute(statement, _plain({**values, **keys})).rowcount > 0


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as SQLite keeps them: what is no scalar as JSON."""
    return {n: json.dumps(v) if isinstance(v, dict | list) else v for n, v in values.items()}
