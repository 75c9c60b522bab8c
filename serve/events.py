"""Server-sent events: every change of every video, to whoever listens.

A new listener hears at once how everything unfinished stands. Source: HTML Standard, "Server-sent
events".
"""

import asyncio
import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from hummingbird_edge.serve.jobs import Job
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.schema import video_object
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.store import PREVIEW

__all__ = ["Events", "Listener"]

_LOOK_S = 0.05
_PING_S = 15.0
_MAX_LISTENERS = 64
_MAX_WAITING = 2000
"""Events that a slow listener may leave unread; then it has to come back."""


@dataclass(slots=True, eq=False)
class Listener:
    """Somebody who hears of one video, or of all."""

    key: str | None
    waiting: "asyncio.Queue[str]" = field(default_factory=lambda: asyncio.Queue(_MAX_WAITING))
    is_open: bool = True

    def hear(self, key: str, text: str) -> None:
        """Put an event aside for it."""
        if self.key not in (None, key) or not self.is_open:
            return
        try:
            self.waiting.put_nowait(text)
        except asyncio.QueueFull:
            self.is_open = False


@dataclass(slots=True)
class Events:
    """Follows the jobs and tells listeners."""

    service: Service
    listeners: set[Listener] = field(default_factory=set)
    is_closed: bool = False
    _seen: int = 0
    _queue: list[str] = field(default_factory=list)
    _previews: dict[str, int] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Follow the jobs until cancelled."""
        self._seen, self._queue = self.service.jobs.last_change(), self.service.jobs.queue()
        while True:
            with suppress(sqlite3.OperationalError):
                self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Tell listeners what has changed since the last look."""
        changes = self.service.jobs.changes(self._seen)
        if not changes:
            return
        self._seen = changes[-1].number
        self._changed.set()
        self._changed = asyncio.Event()
        queue = self.service.jobs.queue()
        moved = {
            key
            for place, key in enumerate(queue)
            if place >= len(self._queue) or self._queue[place] != key
        }
        self._queue = queue
        places = {key: place for place, key in enumerate(queue)}
        changed = dict.fromkeys(change.id for change in changes if not change.deleted)
        deleted = [change.id for change in changes if change.deleted]
        if self.listeners:
            for key in [*changed, *(moved - changed.keys())]:
                job = self.service.jobs.find(key)
                if job is not None:
                    self._tell(job, places.get(key))
            for key in deleted:
                self._send(key, _event("deleted", {"id": key}))
        for key in deleted:
            self._previews.pop(key, None)

    async def wait(self) -> None:
        """Return when something has changed, or a second has passed."""
        try:
            await asyncio.wait_for(self._changed.wait(), 1.0)
        except TimeoutError:
            return
        except asyncio.TimeoutError:  # Python 3.10 has two
            return

    def listen(self, key: str | None) -> AsyncIterator[str]:
        """Return what happens to a video, or to all, as text; raises Problem for too many."""
        if len(self.listeners) >= _MAX_LISTENERS:
            message = f"{_MAX_LISTENERS} listeners are here already: close some pages"
            raise Problem(503, "too_many_listeners", message)
        listener = Listener(key)
        for job in self._present(key):
            position = self.service.jobs.count_ahead(job) if job.status == "queued" else None
            listener.hear(job.id, _event("video", video_object(job, position).model_dump()))
            if job.status == "in_progress" and job.preview_step is not None:
                self._hear_preview(listener, job)
        self.listeners.add(listener)
        return self._stream(listener)

    def close(self) -> None:
        """End all streams."""
        self.is_closed = True
        self.listeners.clear()

    def _present(self, key: str | None) -> list[Job]:
        """Return what a new listener hears at once: its video, or all that are not finished."""
        jobs = self.service.jobs
        if key is not None:
            return [self.service.find(key)]
        queued = (jobs.find(each) for each in jobs.queue())
        return [*jobs.in_progress(), *(job for job in queued if job is not None)]

    async def _stream(self, listener: Listener) -> AsyncIterator[str]:
        try:
            yield "retry: 1000\n\n"
            waited = 0.0
            while listener.is_open and not self.is_closed:
                try:
                    text = await asyncio.wait_for(listener.waiting.get(), 0.5)
                except (TimeoutError, asyncio.TimeoutError):
                    waited += 0.5
                    if waited >= _PING_S:
                        waited = 0.0
                        yield ": still here\n\n"
                    continue
                yield text
                while not listener.waiting.empty():
                    yield listener.waiting.get_nowait()
        finally:
            self.listeners.discard(listener)

    def _tell(self, job: Job, position: int | None) -> None:
        self._send(job.id, _event("video", video_object(job, position).model_dump()))
        if job.preview_step is not None and self._previews.get(job.id) != job.preview_step:
            self._previews[job.id] = job.preview_step
            for listener in self.listeners:
                self._hear_preview(listener, job)
        if job.status not in ("queued", "in_progress"):
            self._previews.pop(job.id, None)

    def _hear_preview(self, listener: Listener, job: Job) -> None:
        path = self.service.store.of(job.id) / PREVIEW
        try:
            picture = base64.b64encode(path.read_bytes()).decode()
        except OSError:  # the video is done, or gone
            return
        entries = {
            "id": job.id,
            "step": job.preview_step,
            "frames": job.num_frames,
            "image": f"data:image/png;base64,{picture}",
        }
        listener.hear(job.id, _event("preview", entries))

    def _send(self, key: str, text: str) -> None:
        for listener in self.listeners:
            listener.hear(key, text)


def _event(name: str, entries: object) -> str:
    return f"event: {name}\ndata: {json.dumps(entries)}\n\n"
