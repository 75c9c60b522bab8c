"""Workers of this machine: a process each.

It reads and writes a line of JSON a message. First come `settings`, `device` and `cores`, then of
each task `request` and `path`. An answer has what `Answer` has; or `fatal`, where no other video
would fare better.
"""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from hummingbird_edge.runtime.cli.batch.worker import Answer, Cores, Settings, Task, WorkerEnded
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.errors import DeviceError, OutputError

__all__ = ["LocalWorker", "local_places"]

PROGRAM = [sys.executable, "-m", "hummingbird_edge.runtime.cli.batch.worker_process"]
_GRACE_S = 5.0


def local_places(
    settings: Settings, devices: Sequence[str]
) -> dict[str, Callable[[], "LocalWorker"]]:
    """Return a place for each device; those of one device share the cores."""
    places = dict[str, Callable[[], LocalWorker]]()
    for device, count in Counter(devices).items():
        share = max(1, usable_cores() // count)
        for number in range(count):
            name, cores = device, Cores()
            if count > 1:
                name, cores = f"{device} {number + 1}", Cores(number * share, share)
            places[name] = partial(LocalWorker, name, settings, device, cores)
    return places


class LocalWorker:
    """A process; implements `Worker`."""

    def __init__(self, name: str, settings: Settings, device: str, cores: Cores) -> None:
        self._name = name
        self._first = {"settings": asdict(settings), "device": device, "cores": asdict(cores)}
        # Python looks for modules in the current folder first: in one that has none.
        self._process = subprocess.Popen(
            PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=BUILTIN
        )

    def start(self) -> None:
        """Wait until its bundle is open; raises WorkerEnded or DeviceError."""
        try:
            self._ask(**self._first)
        except OutputError as error:
            raise DeviceError(str(error)) from error

    def make(self, task: Task) -> Answer:
        """Make a video; raises OutputError where it cannot be written, WorkerEnded."""
        return self._ask(request=task.request.settings(), path=str(task.path))

    def _ask(self, **question: Any) -> Answer:
        assert self._process.stdin
        assert self._process.stdout
        with suppress(OSError, ValueError):  # no reader: the answer below says why
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        line = b""
        with suppress(ValueError):  # closed under it
            line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise WorkerEnded(f"the worker of {self._name} {self._how()}")
        answer = json.loads(line)
        if "fatal" in answer:
            raise OutputError(answer["fatal"])
        return Answer(**answer)

    def _how(self) -> str:
        code = self._process.wait()
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with status {code}"

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError, AttributeError):
                stream.close()  # type: ignore[union-attr]
