"""Keeps a worker process for each device, and what they leave in order.

Of all processes that share a folder of data, one has the workers: the one that holds its lock. When
that one ends, another takes over. So a worker is at work where it is a child of this process:
nothing is asked of process numbers, host names or clocks, which change under a folder that stays.
"""

import asyncio
import json
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from hummingbird_edge.serve.events import Events
from hummingbird_edge.serve.service import Service

__all__ = ["at_work"]

_LOOK_S = 0.5
"""Between two looks at workers, jobs and the store."""
_MAX_DEATHS = 5
"""Workers that may die of a job, one after another, without taking a step."""
_GRACE_S = 5.0

Process = subprocess.Popen[bytes]


@asynccontextmanager
async def at_work(events: Events) -> AsyncIterator[None]:
    """Have workers and followers at work meanwhile."""
    supervisor = Supervisor(events.service)
    tasks = [asyncio.create_task(each.run()) for each in (supervisor, events)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        supervisor.stop()


@dataclass(slots=True)
class Supervisor:
    """The workers of this process; `run` is to be cancelled and `stop` called at the end."""

    service: Service
    workers: dict[str, tuple[str, Process]] = field(default_factory=dict)
    """By device: the name by which it has jobs, drawn at its start, and the process."""
    _lock: sqlite3.Connection | None = None
    _is_first: bool = True
    """No look was made to its end with the lock yet."""

    async def run(self) -> None:
        """Look after everything until cancelled."""
        while True:
            with suppress(sqlite3.OperationalError, OSError):  # a full disk; later it may do
                self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Take the lock if it is free; start what has ended, requeue what nobody makes."""
        store, jobs = self.service.store, self.service.jobs
        self._lock = self._lock or store.lock()
        # A stop may have reached the workers first: that is no reason to start others.
        if self._lock is None or self.service.is_stopping():
            return
        if self._is_first:
            store.remove_orphans(jobs)
        jobs.free(self.service.devices)  # another process on this folder may have others
        alive = {d: name for d, (name, each) in self.workers.items() if each.poll() is None}
        self._requeue(alive.values(), self._is_first)
        self._is_first = False
        for device in self.service.devices:
            if device not in alive:
                self.workers[device] = self._start(device)
        store.prune(jobs)

    def stop(self) -> None:
        """End the workers; what they were making goes on from its last step next time."""
        workers = [worker for _, worker in self.workers.values()]
        for worker in workers:
            assert worker.stdin is not None
            with suppress(OSError):
                worker.stdin.close()
        for worker in workers:
            try:
                worker.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        if self._lock is not None:
            self._requeue((), is_first=True)
            self._lock.close()

    def _start(self, device: str) -> tuple[str, Process]:
        service, name = self.service, secrets.token_hex(8)
        settings = {
            "name": name,
            "data": str(service.store.folder),
            "device": device,
            "models": {  # absolute: a worker has another current folder
                name: str(model.bundle.folder.absolute()) for name, model in service.models.items()
            },
            "max_memory": service.max_memory,
        }
        # Its output goes nowhere: ours may be a protocol, and engines print.
        worker = subprocess.Popen(
            [sys.executable, "-m", "hummingbird_edge.serve.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=service.store.folder,
        )
        assert worker.stdin is not None
        with suppress(OSError):  # it ended already: the next look starts another
            worker.stdin.write(json.dumps(settings).encode() + b"\n")
            worker.stdin.flush()
        return name, worker

    def _requeue(self, alive: Collection[str], is_first: bool) -> None:
        """Queue again what others than these were making; what kills every worker fails.

        At the first look workers died with their server: that is no fault of the job. One that is
        still amid a step ends when it next looks at its input; its reports are refused, and its
        files are whole ones of the same video.
        """
        for job in self.service.jobs.in_progress():
            if job.owner in alive:
                continue
            deaths = job.deaths + (not is_first)
            values = {"status": "queued", "owner": None, "stage": None, "deaths": deaths}
            if deaths >= _MAX_DEATHS:
                text = f"{deaths} workers ended while they made it: it may need too much memory"
                values |= {"status": "failed", "error_code": "worker_ended", "error_message": text}
            self.service.jobs.report(job, job.owner, **values)
