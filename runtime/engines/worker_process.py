"""The process of a `Worker`: loads graphs and runs them as its parent says.

    python -m hummingbird_edge.runtime.engines.worker_process

A request is a line of JSON on standard input, an answer one on standard output; see `Worker`.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.resident import peak_bytes
from hummingbird_edge.runtime.engines import loading
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.errors import HummingbirdError, OutOfMemoryError

__all__ = ["main"]


class _Server:
    """Answers one request after the other."""

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers
        self._sessions = list[Session]()
        self._outputs: tuple[Session, tuple[NDArray[np.float32], ...]] | None = None
        self._blocks: dict[str, SharedMemory] = {}

    def serve(self, request: Mapping[str, Any]) -> None:
        """Carry out a request and answer it; what goes wrong is an answer too."""
        try:
            answer = getattr(self, f"_{request['do']}")(request)
        except HummingbirdError as error:
            is_memory = isinstance(error, OutOfMemoryError)
            answer = {"error": str(error), "is_memory": is_memory}
        except MemoryError:
            answer = {"error": "the engine's process is out of memory", "is_memory": True}
        self._say({**answer, "peak_bytes": peak_bytes()})

    def _say(self, answer: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(answer).encode() + b"\n")
        self._answers.flush()

    def _open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        cache, kind = request["cache"], request["kind"]
        backend = Backend.parse(request["device"], request["precision"])
        session = loading.open_session(
            Path(request["graph"]),
            replace(backend, threads=request["threads"]),
            request["sizes"],
            None if cache is None else CompileCache(Path(cache)),
            lambda text: self._say({"note": text}),
            None if kind is None else StageKind(kind),
        )
        self._sessions.append(session)
        return {"session": len(self._sessions) - 1, "share": session.share}

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        session = self._sessions[request["session"]]
        inputs = {e["name"]: self._view(request["given"], e) for e in request["inputs"]}
        self._outputs = session, session.run_all(inputs)
        del inputs  # a block in use cannot be let go
        return self._return(request)

    def _return(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Put the outputs of the last run where there is room, or say how much they need."""
        assert self._outputs is not None
        session, outputs = self._outputs
        entries, offset = list[dict[str, Any]](), 0
        for output in outputs:
            layout = {"dtype": output.dtype.str, "shape": list(output.shape), "offset": offset}
            entries.append(layout)
            offset += -(-output.nbytes // 64) * 64
        if offset > request["room"]:
            return {"needs": offset}
        for output, entry in zip(outputs, entries, strict=True):
            self._view(request["returned"], entry)[...] = output
        self._outputs = None
        return {"outputs": entries, "share": session.share}

    def _view(self, name: str, entry: Mapping[str, Any]) -> NDArray[Any]:
        if name not in self._blocks:
            # The parent grows a block by making another: two are in use at most.
            while len(self._blocks) > 1:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[name] = SharedMemory(name)
        dtype = np.dtype(entry["dtype"])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        buffer = self._blocks[name].buf
        assert buffer is not None
        return np.frombuffer(buffer, dtype, count, entry["offset"]).reshape(entry["shape"])


def main() -> None:
    """Serve until the parent closes its end."""
    # The parent owns the shared memory: nobody here may remove it at the end.
    resource_tracker.register = lambda *_: None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # engines and drivers print as they like
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    server = _Server(answers)
    while True:
        server.serve(json.loads(requests.get()))


def _listen(requests: "queue.SimpleQueue[bytes]") -> None:
    """Pass requests on; without a parent there is nothing left to do, even amid a run."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
