"""Graphs in a process of their own: a driver that falls ends that process, not the video.

    worker = Worker(Limits())
    session = worker.open(graph, backend)       a `Session`, as `open_session` returns

The worker speaks JSON, a line a message, on its standard streams; arrays lie in shared memory that
this process owns. An abort, a hang, more memory than allowed and a lost driver are a DeviceError.
The process ends with the last session that it holds, or with this process.
"""

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.errors import DeviceError, OutOfMemoryError, RequestError

__all__ = ["Limits", "Worker", "WorkerSession", "needs_worker"]

PROGRAM = [sys.executable, "-m", "hummingbird_edge.runtime.engines.worker_process"]
VARIABLE = "HUMMINGBIRD_WORKERS"
"""`gpu` for stages on GPUs and NPUs, which is so by itself; `all`, or `none`."""
_LOOK_S = 0.25
"""Between two looks at how much memory the worker holds."""
_COMPILE_S = 3600.0
"""A driver may compile a U-Net for half an hour."""


def needs_worker(device: Device) -> bool:
    """Tell whether a stage on `device` runs in a process of its own; raises RequestError."""
    chosen = os.environ.get(VARIABLE) or "gpu"
    if chosen not in ("gpu", "all", "none"):
        raise RequestError(f"{VARIABLE} is {chosen!r}: set it to gpu, all or none")
    return chosen == "all" or (chosen == "gpu" and device.needs_proof)


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond these a worker is ended."""

    run_s: float = 600.0
    """Seconds of one run."""
    load_s: float = 600.0
    """Seconds to load a graph; an hour where it says that it compiles."""
    bytes: int = 1 << 62
    """Resident memory of its process."""


class Worker:
    """A process that holds sessions."""

    def __init__(self, limits: Limits) -> None:
        """Start the process; that takes a second, of which the caller waits for none."""
        self.limits, self.peak_bytes = limits, 0
        # Python looks for modules in the current folder first: in one that has none.
        self._process = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=BUILTIN,
        )
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last_words = deque[bytes | None](maxlen=20)
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._requests: IO[bytes] = self._process.stdin
        _start_thread(_read_into, self._process.stdout, self._answers.put)
        self._errors = _start_thread(_read_into, self._process.stderr, self._last_words.append)
        self._given, self._returned = _Block(), _Block()
        # Threads hold nothing of this object, so it ends with the last session.
        self.close = weakref.finalize(self, _end, self._process, self._given, self._returned)
        """End the process; what it was computing is lost."""

    def open(
        self,
        graph: Path,
        backend: Backend,
        sizes: Mapping[str, int] | None = None,
        cache: CompileCache | None = None,
        notify: Callable[[str], None] = lambda _: None,
        kind: StageKind | None = None,
    ) -> "WorkerSession":
        """Load `graph` there; arguments and errors are those of `open_session`."""
        answer = self.ask(
            {
                "do": "open",
                "graph": str(graph.absolute()),
                "device": backend.device.name,
                "precision": backend.precision.value,
                "threads": backend.threads,
                "sizes": dict(sizes or {}),
                "cache": None if cache is None else str(cache.folder.absolute()),
                "kind": None if kind is None else kind.value,
            },
            self.limits.load_s,
            f"{backend.device.name}, while loading {graph.parent.name}",
            notify,
        )
        return WorkerSession(self, answer["session"], backend, answer["share"])

    def run(
        self, session: int, inputs: Mapping[str, NDArray[Any]], who: str
    ) -> tuple[list[NDArray[np.float32]], float]:
        """Return all outputs of a run, and the share of nodes that the device took."""
        request = {
            "do": "run",
            "session": session,
            "inputs": self._given.put(inputs),
            "given": self._given.name,
        }
        limit = self.limits.run_s
        while True:
            into = {"returned": self._returned.name, "room": self._returned.size}
            answer = self.ask(request | into, limit, who)
            if "outputs" in answer:
                return self._returned.take(answer["outputs"]), answer["share"]
            # The first run says how much room its outputs need, and keeps them.
            self._returned.grow(answer["needs"])
            request = {"do": "return"}

    def ask(
        self,
        request: Mapping[str, Any],
        limit_s: float,
        who: str,
        notify: Callable[[str], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Return the answer to a request; raises DeviceError where it is an error or none comes."""
        with suppress(OSError, ValueError):  # no reader: the answer below says why
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        deadline = time.monotonic() + limit_s
        while True:
            try:
                line = self._answers.get(timeout=_LOOK_S)
            except queue.Empty:
                self._check(deadline, limit_s, who)
                continue
            if line is None:
                raise DeviceError(f"{who}: {self._end_of_process()}")
            answer: dict[str, Any] = json.loads(line)
            if "note" in answer:
                deadline, limit_s = time.monotonic() + _COMPILE_S, _COMPILE_S
                notify(answer["note"])
                continue
            self.peak_bytes = max(self.peak_bytes, answer.get("peak_bytes", 0))
            if "error" in answer:
                raise (OutOfMemoryError if answer["is_memory"] else DeviceError)(answer["error"])
            return answer

    def _check(self, deadline: float, limit_s: float, who: str) -> None:
        """End a worker that takes too long or too much; raises DeviceError then."""
        from psutil import Error, Process

        held = 0
        with suppress(Error):
            held = Process(self._process.pid).memory_info().rss
        self.peak_bytes = max(self.peak_bytes, held)
        if held > self.limits.bytes:
            self.close()
            raise DeviceError(
                f"{who}: its process took {held >> 20} MiB, more than the "
                f"{self.limits.bytes >> 20} MiB it may have, and was ended"
            )
        if time.monotonic() > deadline:
            self.close()
            raise DeviceError(f"{who}: no answer for {limit_s:.0f} s, its process was ended")

    def _end_of_process(self) -> str:
        code = self._process.wait()
        self._errors.join(timeout=1)
        how = f"ended with status {code}"
        if code < 0:
            with suppress(ValueError):
                how = f"was ended by {signal.Signals(-code).name}"
        words = b"".join(line for line in self._last_words if line is not None)
        last = words.decode(errors="replace").strip().splitlines()[-1:]
        return f"its process {how}" + (f" ({last[0][:120]})" if last else "")


class WorkerSession(Session):
    """One graph that a worker has loaded; implements `Session`."""

    def __init__(self, worker: Worker, number: int, backend: Backend, share: float) -> None:
        self.worker, self.backend, self.share = worker, backend, share
        self._number = number

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return all outputs; raises DeviceError where the engine, or its process, fails."""
        who = f"{self.backend.device.name}, while computing"
        outputs, self.share = self.worker.run(self._number, inputs, who)
        return tuple(outputs)


class _Block:
    """Shared memory that grows as arrays need it."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None

    @property
    def name(self) -> str:
        return "" if self._memory is None else self._memory.name

    @property
    def size(self) -> int:
        return 0 if self._memory is None else self._memory.size

    def grow(self, size: int) -> None:
        if size > self.size:
            self.free()
            self._memory = SharedMemory(create=True, size=size)

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
        """Copy arrays into the memory; returns name, dtype, shape and offset of each."""
        entries, offset = list[dict[str, Any]](), 0
        for name, array in arrays.items():
            layout = {"dtype": array.dtype.str, "shape": list(array.shape), "offset": offset}
            entries.append({"name": name, **layout})
            offset += -(-array.nbytes // 64) * 64
        self.grow(max(1, offset))
        for array, entry in zip(arrays.values(), entries, strict=True):
            self._view(entry)[...] = array
        return entries

    def take(self, entries: list[dict[str, Any]]) -> list[NDArray[np.float32]]:
        """Return copies of arrays that the worker put there."""
        return [self._view(entry).copy() for entry in entries]

    def free(self) -> None:
        if self._memory is not None:
            self._memory.close()
            with suppress(OSError):
                self._memory.unlink()
            self._memory = None

    def _view(self, entry: Mapping[str, Any]) -> NDArray[Any]:
        assert self._memory is not None
        assert self._memory.buf is not None
        shape, dtype = entry["shape"], np.dtype(entry["dtype"])
        memory = self._memory.buf[entry["offset"] : entry["offset"] + _bytes(shape, dtype)]
        return np.frombuffer(memory, dtype).reshape(shape)


def _end(process: subprocess.Popen[bytes], *blocks: _Block) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.close()  # type: ignore[union-attr]
    for block in blocks:
        block.free()


def _bytes(shape: list[int], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _read_into(stream: IO[bytes], put: Callable[[bytes | None], None]) -> None:
    """Pass on each line of a stream, then None."""
    with suppress(OSError, ValueError):  # closed under it
        for line in stream:
            put(line)
    put(None)


def _start_thread(target: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread
