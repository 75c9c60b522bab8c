"""Export the stages of a bundle: large ones side by side, each in a process of its own.

    python -m hummingbird_edge.export.stage_process

PyTorch's tracer keeps one core busy, for minutes at full size. The process reads what to write from
standard input and answers on standard output, both pickled: its parent is this module, and a
checkpoint travels as the paths of its files.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from hummingbird_edge.export.bundle_plan import BundlePlan
from hummingbird_edge.export.stage import STAGES, network
from hummingbird_edge.export.stage_writer import WrittenStage, write_stage
from hummingbird_edge.export.weights import Weights
from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from hummingbird_edge.runtime.errors import OutOfMemoryError
from hummingbird_edge.runtime.placement.limits import machine_bytes

__all__ = ["main", "write_stages"]

_PROGRAM = (sys.executable, "-m", "hummingbird_edge.export.stage_process")
_AT_ONCE = 2
_MIN_PARAMETERS = 200_000_000
"""Of all stages: with fewer an export ends before a process has started."""
_BYTES_FOR_A_PARAMETER = 11
"""Of an export: the weights in float32, and copies of them on the way to the file."""


def write_stages(
    plan: BundlePlan, weights: Weights, folder: Path, report: Callable[[str], None]
) -> list[WrittenStage]:
    """Write every stage of `plan` into the bundle `folder`; returns them in the order of the plan.

    `report` hears one line a stage. Raises CheckpointError, OutputError or OutOfMemoryError.
    """
    sizes = {name: _parameters(plan, name) for name in plan.stages}
    if not _fit_at_once(sum(sizes.values())):
        return list(_one_by_one(plan, weights, folder, report))
    with ThreadPoolExecutor(_AT_ONCE) as pool, _Processes() as processes:

        def write(name: str) -> WrittenStage:
            written = processes.run(name, pickle.dumps((plan, name, weights, folder.absolute())))
            report(written.summary)
            return written

        largest_first = sorted(sizes, key=sizes.__getitem__, reverse=True)
        pending = {name: pool.submit(write, name) for name in largest_first}
        try:
            for future in as_completed(pending.values()):
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return [pending[name].result() for name in plan.stages]


def main() -> None:
    """Write one stage, and answer with it or with what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print
    plan, name, weights, folder = pickle.load(sys.stdin.buffer)
    answer: WrittenStage | Exception
    try:
        answer = write_stage(plan, name, weights, folder)
    except Exception as error:  # of any library: the parent treats it as its own
        answer = error.with_traceback(None)
    with answers:
        answers.write(_pickled(answer))


def _pickled(answer: object) -> bytes:
    try:
        return pickle.dumps(answer)
    except (pickle.PicklingError, TypeError, AttributeError):  # some exceptions hold anything
        return pickle.dumps(RuntimeError(str(answer)))


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: what it writes belongs to nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _one_by_one(
    plan: BundlePlan, weights: Weights, folder: Path, report: Callable[[str], None]
) -> Iterator[WrittenStage]:
    for name in plan.stages:
        written = write_stage(plan, name, weights, folder)
        report(written.summary)
        yield written


def _parameters(plan: BundlePlan, name: str) -> int:
    with torch.device("meta"):
        found = network(STAGES[name].network, plan.config)
    return sum(p.numel() for p in found.parameters())


def _fit_at_once(parameters: int) -> bool:
    large = parameters >= _MIN_PARAMETERS and (os.cpu_count() or 1) >= _AT_ONCE
    return large and machine_bytes() >= _BYTES_FOR_A_PARAMETER * parameters


class _Processes:
    """Processes that write a stage each; those that still run at the end are killed."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock, self._is_over = threading.Lock(), False

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_over = True
            for process in self._running:
                process.kill()

    def run(self, name: str, request: bytes) -> WrittenStage:
        """Run a process for the stage `name`; raises what was raised there."""
        with self._lock:
            if self._is_over:
                raise CancelledError
            # Python looks for modules in the current folder first: in one that has none.
            process = subprocess.Popen(
                _PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=BUILTIN
            )
            self._running.append(process)
        answer = process.communicate(request)[0]
        if process.returncode:  # it had no answer
            raise OutOfMemoryError(
                f"the process that exports {name} ended with status {process.returncode}: the "
                f"system may have run out of memory; close other programs and try again"
            )
        written: WrittenStage | Exception = pickle.loads(answer)
        if isinstance(written, Exception):
            raise written
        return written


if __name__ == "__main__":
    main()
