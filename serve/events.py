"""Server-sent events: every change of every video, to whoever listens.

A new listener hears at once how everything unfinished stands. Each reads the log of changes itself,
so that a slow one misses what was overtaken. Source: HTML Standard, "Server-sent events".
"""

import asyncio
import base64
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sse_starlette import ServerSentEvent

from hummingbird_edge.serve.job import FINISHED, Job
from hummingbird_edge.serve.problem import Problem
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.store import PREVIEW

__all__ = ["Events"]

_LOOK_S = 0.05
_MAX_LISTENERS = 64


@dataclass(slots=True)
class Events:
    """Follows the jobs and tells listeners."""

    service: Service
    _listeners: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Wake who waits whenever something has changed, until cancelled."""
        seen = None
        while True:
            with suppress(sqlite3.OperationalError):
                if (last := self.service.jobs.last_change()) != seen:
                    seen = last
                    self._changed.set()
                    self._changed = asyncio.Event()
            await asyncio.sleep(_LOOK_S)

    async def wait(self) -> None:
        """Return when something has changed, or a second has passed."""
        with suppress(TimeoutError, asyncio.TimeoutError):  # Python 3.10 has two
            await asyncio.wait_for(self._changed.wait(), 1.0)

    async def follow(self, key: str) -> AsyncIterator[Job]:
        """Yield a video as it changes, until it has ended.

        Raises Problem where it could not be made, and where the server stops: it goes on next time.
        """
        while True:
            yield (job := self.service.find(key))
            if job.error is not None:
                raise Problem(422, job.error.code, job.error.message)
            if job.status in FINISHED:
                return
            if self.service.is_stopping():
                message = f"the server stops: {key} goes on when it is started again"
                raise Problem(503, "stopping", message)
            await self.wait()

    def listen(self, key: str | None) -> AsyncIterator[ServerSentEvent]:
        """Return what happens to a video, or to all; raises Problem for too many listeners."""
        if self._listeners >= _MAX_LISTENERS:
            message = f"{_MAX_LISTENERS} listeners are here already: close some pages"
            raise Problem(503, "too_many_listeners", message)
        if key is not None:
            self.service.find(key)
        return self._stream(key)

    async def _stream(self, key: str | None) -> AsyncIterator[ServerSentEvent]:
        jobs, pictures = self.service.jobs, dict[str, int]()
        self._listeners += 1
        try:
            yield ServerSentEvent(retry=1000)
            seen, queue = jobs.last_change(), jobs.queue()
            news = [key] if key else [*(job.id for job in jobs.in_progress()), *queue]
            while True:
                for each in news:
                    for event in self._describe(each, pictures):
                        yield event
                seen, queue, news = self._news(seen, queue)
                news = [each for each in news if key in (None, each)]
                if not news:
                    await self.wait()
        finally:
            self._listeners -= 1

    def _news(self, seen: int, before: list[str]) -> tuple[int, list[str], list[str]]:
        """Return the last change, the queue, and which videos are other than before."""
        jobs = self.service.jobs
        try:
            changes, queue = jobs.changes(seen), jobs.queue()
        except sqlite3.OperationalError:  # the disk is full
            return seen, before, []
        places = {key: place for place, key in enumerate(before)}
        moved = [key for place, key in enumerate(queue) if places.get(key) != place]
        keys = dict.fromkeys([*(key for _, key in changes), *moved])
        return changes[-1][0] if changes else seen, queue, list(keys)

    def _describe(self, key: str, pictures: dict[str, int]) -> Iterator[ServerSentEvent]:
        """Yield how a video stands; `pictures` has the step of the last picture of each."""
        job = self.service.jobs.find(key)
        if job is None:
            yield _event("deleted", {"id": key})
        else:
            yield _event("video", job.model_dump())
        if job is None or job.status in FINISHED:
            pictures.pop(key, None)
        elif job.preview_step not in (None, pictures.get(key)):
            with suppress(OSError):  # the video is done, or gone
                picture = (self.service.store.of(key) / PREVIEW).read_bytes()
                pictures[key] = job.preview_step or 0
                image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
                entries = {"id": key, "step": job.preview_step, "frames": job.num_frames}
                yield _event("preview", {**entries, "image": image})


def _event(name: str, entries: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(entries), event=name)
