"""A worker whose engine misbehaves on one device, stage and run, as its environment says.

MISBEHAVE="DEVICE STAGE RUN WHAT"    WHAT is abort, hang, leak or nan; RUN counts from 0
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from hummingbird_edge.runtime.engines import loading, worker_process

_open = loading.open_session


def open_session(graph: Path, backend: Any, *arguments: Any) -> Any:
    """Return the real session, which breaks in the run that was asked for."""
    session = _open(graph, backend, *arguments)
    device, stage, run, what = os.environ["MISBEHAVE"].split()
    if backend.device.name == device and stage in str(graph):
        setattr(session, "run_all", _breaking(session.run_all, int(run), what))  # noqa: B010
    return session


def _breaking(run_all: Any, number: int, what: str) -> Any:
    count = 0

    def run(inputs: Any) -> Any:
        nonlocal count
        count += 1
        outputs = run_all(inputs)
        if count <= number:
            return outputs
        if what == "abort":
            os.abort()
        if what == "leak":
            held = list[Any]()
            while True:  # until it is ended
                held.append(np.ones(1 << 23))
                time.sleep(0.02)
        if what == "hang":
            time.sleep(3600)
        return tuple(np.full_like(output, np.nan) for output in outputs)

    return run


if __name__ == "__main__":
    setattr(loading, "open_session", open_session)  # noqa: B010
    worker_process.main()
