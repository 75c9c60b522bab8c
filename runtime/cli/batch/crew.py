"""Workers that take tasks from one queue: what a dead one was making goes to another.

    for task, answer in Crew(tasks, places).run():

A **place** is where a worker can be: a device of this machine, or of a node of a cluster. Places
may come and go meanwhile. Each has a thread that starts its worker, hands it one task after the
other, and starts another when it dies.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue

from hummingbird_edge.runtime.cli.batch.worker import Answer, Task, Worker, WorkerEnded
from hummingbird_edge.runtime.command import note
from hummingbird_edge.runtime.errors import DeviceError, HummingbirdError

__all__ = ["Crew", "Places"]

Places = Callable[[], Mapping[str, Callable[[], Worker]]]
"""Returns the places that there are now, by name what starts a worker there.

That raises WorkerEnded, or HummingbirdError where it is of no use to try again.
"""
_LOOK_S = 1.0
"""Between two looks at the places."""
_MAX_DEATHS = 3
"""Workers that may die of a task, or while they start at a place."""


class Crew:
    """Has workers at all places until every task is done."""

    def __init__(self, tasks: Sequence[Task], places: Places) -> None:
        self._todo, self._left, self._places = deque(tasks), len(tasks), places
        self._seen: Mapping[str, Callable[[], Worker]] = {}
        self._look_at = time.monotonic()
        """When to look at the places again: the more nodes, the longer a cluster takes to tell."""
        self._ended: SimpleQueue[tuple[Task, Answer] | Exception] = SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._workers: dict[str, Worker] = {}
        self._useless: dict[str, Exception] = {}
        """Places that no worker can start at."""
        self._deaths = Counter[str]()
        """By custom_id of a task, or name of a place."""
        self._changed = threading.Condition()
        self._is_over = False

    def run(self) -> Iterator[tuple[Task, Answer]]:
        """Yield each task when it is done; raises what a worker raises, or DeviceError."""
        try:
            while self._left:
                self._man()
                try:
                    found = self._ended.get(timeout=_LOOK_S)
                except Empty:
                    continue
                if isinstance(found, Exception):
                    raise found
                self._left -= 1
                yield found
        finally:
            self._stop()

    def _man(self) -> None:
        """Have a thread at every place of use; raises DeviceError where there is none."""
        if (now := time.monotonic()) >= self._look_at:
            self._seen, self._look_at = self._places(), now + _LOOK_S
        places = {n: start for n, start in self._seen.items() if n not in self._useless}
        for name, start in places.items():
            thread = self._threads.get(name)
            if thread is None or not thread.is_alive():
                # Nobody waits for it at the end: it may be asking a cluster that is gone.
                thread = threading.Thread(target=self._work, args=(name, start), daemon=True)
                self._threads[name] = thread
                thread.start()
        is_idle = not any(thread.is_alive() for thread in self._threads.values())
        if not places and is_idle and self._ended.empty():
            reasons = [str(error) for error in self._useless.values()] or ["all have gone"]
            raise DeviceError(f"no worker is left for {self._left} videos: {reasons[-1]}")

    def _work(self, place: str, start: Callable[[], Worker]) -> None:
        """Start a worker, and have it work until it dies or nothing is left to do."""
        try:
            worker = self._workers[place] = start()
        except WorkerEnded as ended:
            self._deaths[place] += 1
            if self._deaths[place] >= _MAX_DEATHS:
                self._give_up(place, ended)
            return
        except Exception as error:
            self._give_up(place, error)
            return
        self._deaths[place] = 0
        try:
            while (task := self._take()) is not None:
                try:
                    self._ended.put((task, worker.make(task)))
                except WorkerEnded as ended:
                    self._give_back(task, ended)
                    return
        except Exception as error:
            self._ended.put(error)
        finally:
            worker.close()

    def _give_up(self, place: str, error: Exception) -> None:
        self._useless[place] = error
        if not isinstance(error, WorkerEnded | HummingbirdError):
            self._ended.put(error)
        elif not self._is_over:
            note(f"{place} is left out: {error}")

    def _take(self) -> Task | None:
        """Return the next task, when there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._todo or self._is_over)
            return None if self._is_over else self._todo.popleft()

    def _give_back(self, task: Task, ended: WorkerEnded) -> None:
        """Have another worker make a task, unless it is what kills them."""
        if self._is_over:
            return
        self._deaths[task.custom_id] += 1
        if self._deaths[task.custom_id] >= _MAX_DEATHS:
            text = f"{_MAX_DEATHS} workers ended while they made it, the last one because {ended}"
            self._ended.put((task, Answer(None, "worker_ended", text)))
            return
        note(f"{ended}: what it was making is made again")
        with self._changed:
            self._todo.appendleft(task)
            self._changed.notify()

    def _stop(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for worker in list(self._workers.values()):
            worker.close()
