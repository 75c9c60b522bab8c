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
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from queue import Empty, SimpleQueue

from hummingbird_edge.runtime.cli.batch.worker import Answer, Task, Worker, WorkerEnded
from hummingbird_edge.runtime.command import note
from hummingbird_edge.runtime.errors import DeviceError, HummingbirdError

__all__ = ["Crew", "Places"]

Places = Callable[[], Mapping[str, Callable[[], Worker]]]
"""Returns the places that there are now, by name what creates a worker there."""
_LOOK_S = 1.0
"""Between two looks at the places."""
_MAX_DEATHS = 3
"""Workers that may die of a task, or while they start at a place."""
_GRACE_S = 5.0
"""For threads to end."""


class Crew:
    """Has workers at all places until every task is done."""

    def __init__(self, tasks: Sequence[Task], places: Places) -> None:
        self._todo, self._left, self._places = deque(tasks), len(tasks), places
        self._ended: SimpleQueue[tuple[Task, Answer] | Exception] = SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._workers: dict[str, Worker] = {}
        self._useless: dict[str, Exception] = {}
        """Places that no worker can start at."""
        self._deaths_of_task = Counter[str]()
        """By custom_id."""
        self._deaths_at_start = Counter[str]()
        """By name of a place, since a worker last started there."""
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
        places = {n: create for n, create in self._places().items() if n not in self._useless}
        for name, create in places.items():
            thread = self._threads.get(name)
            if thread is None or not thread.is_alive():
                # Nobody waits for it without end: it may be asking a cluster that is gone.
                thread = threading.Thread(target=self._work, args=(name, create), daemon=True)
                self._threads[name] = thread
                thread.start()
        is_idle = not any(thread.is_alive() for thread in self._threads.values())
        if not places and is_idle and self._ended.empty():
            reasons = [str(error) for error in self._useless.values()] or ["all have gone"]
            raise DeviceError(f"no worker is left for {self._left} videos: {reasons[-1]}")

    def _work(self, place: str, create: Callable[[], Worker]) -> None:
        """Have a worker at a place, until it dies or nothing is left to do."""
        try:
            with closing(create()) as worker:
                self._workers[place] = worker  # so that `_stop` can end its start as well
                worker.start()
                self._deaths_at_start[place] = 0
                self._make_all(place, worker)
        except WorkerEnded as ended:
            self._deaths_at_start[place] += 1
            if self._deaths_at_start[place] >= _MAX_DEATHS:
                self._give_up(place, ended)
        except Exception as error:
            self._give_up(place, error)

    def _make_all(self, place: str, worker: Worker) -> None:
        try:
            while (task := self._take()) is not None:
                try:
                    self._ended.put((task, worker.make(task)))
                except WorkerEnded as ended:
                    self._give_back(task, ended)
                    return
                except DeviceError as error:  # no fault of the task
                    self._put_back(task)
                    self._give_up(place, error)
                    return
        except Exception as error:
            self._ended.put(error)

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
        self._deaths_of_task[task.custom_id] += 1
        if self._deaths_of_task[task.custom_id] >= _MAX_DEATHS:
            text = f"{_MAX_DEATHS} workers ended while they made it, the last one because {ended}"
            self._ended.put((task, Answer(None, "worker_ended", text)))
            return
        note(f"{ended}: what it was making is made again")
        self._put_back(task)

    def _put_back(self, task: Task) -> None:
        with self._changed:
            self._todo.appendleft(task)
            self._changed.notify()

    def _stop(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        workers = list(self._workers.values())
        with ThreadPoolExecutor(max(1, len(workers))) as pool:  # each may take seconds to end
            list(pool.map(lambda worker: worker.close(), workers))
        # One that asks a cluster while Python ends would end the command with status 1.
        deadline = time.monotonic() + _GRACE_S
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
