"""Keeps a worker process for each device, and what they leave in order.

Of all processes that share a folder of data, one has the workers: the one that holds its lock. When
that one ends, another takes over.
"""

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field

from hummingbird_edge.runtime.files import is_running
from hummingbird_edge.serve.jobs import Job, Jobs
from hummingbird_edge.serve.store import Store

__all__ = ["Supervisor"]

_LOOK_S = 0.5
"""Between two looks at workers, jobs and the store."""
_MAX_DEATHS = 5
"""Workers that may die of a job, one after another, without taking a step."""
_GRACE_S = 5.0


@dataclass(slots=True)
class Supervisor:
    """The workers of this process; `run` is to be cancelled and `stop` called at the end."""

    store: Store
    jobs: Jobs
    devices: tuple[str, ...]
    models: dict[str, str]
    max_memory: int | None
    workers: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    _lock: sqlite3.Connection | None = None

    async def run(self) -> None:
        """Look after everything until cancelled."""
        while True:
            with suppress(sqlite3.OperationalError, OSError):  # a full disk; later it may do
                self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Take the lock if it is free; start what has ended, requeue what nobody makes."""
        is_first = self._lock is None
        self._lock = self._lock or self.store.lock()
        if self._lock is None:
            return
        if is_first:
            self.store.remove_orphans(self.jobs)
        self._requeue(is_first)
        for device in self.devices:
            worker = self.workers.get(device)
            if worker is None or worker.poll() is not None:
                self.workers[device] = self._start(device)
        self.store.prune(self.jobs)

    def stop(self) -> None:
        """End the workers; what they were making goes on from its last step next time."""
        for worker in self.workers.values():
            if worker.stdin is not None:
                with suppress(OSError):
                    worker.stdin.close()
        for worker in self.workers.values():
            try:
                worker.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        if self._lock is not None:
            self._requeue(is_first=True)
            self._lock.close()

    def _start(self, device: str) -> "subprocess.Popen[bytes]":
        settings = {
            "data": str(self.store.folder),
            "device": device,
            "models": self.models,
            "max_memory": self.max_memory,
        }
        # Its output goes nowhere: ours may be a protocol, and engines print.
        worker = subprocess.Popen(
            [sys.executable, "-m", "hummingbird_edge.serve.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=self.store.folder,
        )
        assert worker.stdin is not None
        with suppress(OSError):  # it ended already: the next look starts another
            worker.stdin.write(json.dumps(settings).encode() + b"\n")
            worker.stdin.flush()
        return worker

    def _requeue(self, is_first: bool) -> None:
        """Queue again what dead workers were making; what kills every worker fails.

        At the first look workers died with their server: that is no fault of the job.
        """
        for job in self.jobs.in_progress():
            if not is_running(job.owner):
                self._requeue_one(job, job.deaths + (not is_first))

    def _requeue_one(self, job: Job, deaths: int) -> None:
        values = {"status": "queued", "owner": None, "stage": None, "deaths": deaths}
        if deaths >= _MAX_DEATHS:
            text = f"{deaths} workers ended while they made it: it may need too much memory"
            values |= {"status": "failed", "error_code": "worker_ended", "error_message": text}
        self.jobs.report(job, job.owner, **values)
