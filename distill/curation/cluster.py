"""Stages on a Ray cluster: each is an operator of a Ray Data pipeline.

Ray fuses the operators, so that a batch goes through all of them in one task and its frames stay in
one process. A task of a node that dies is done again elsewhere.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hummingbird_edge.distill.curation.candidate import from_table, to_table
from hummingbird_edge.distill.curation.pipeline import Batch, Stage
from hummingbird_edge.runtime.errors import DeviceError

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["OnRay"]

_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class OnRay:
    """The Ray cluster that this process is connected to."""

    @classmethod
    def connect(cls, address: str) -> "OnRay":
        """Connect to HOST:PORT, `auto`, or `local`, which is started; raises DeviceError."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to nobody
        import ray

        own = {"include_dashboard": False} if address == "local" else {}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            host, _, port = address.rpartition(":")
            if port.isdecimal() and "://" not in address:  # Ray itself tries for minutes
                socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[:1] or [type(error).__name__]
            raise DeviceError(
                f"there is no Ray cluster at {address!r} ({reason[0].rstrip('.')}): start one with "
                f"ray start --head, or give --ray HOST:PORT"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray takes it for itself
        return cls()

    def run(self, stages: Sequence[Stage], batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield what becomes of the batches, in any order; raises DeviceError."""
        if not batches:
            return
        import ray.data
        from ray.exceptions import RayError

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        data = ray.data.from_arrow([to_table(batch) for batch in batches])
        for stage in stages:
            data = data.map_batches(_Operator(stage), batch_size=None, batch_format="pyarrow")
        try:
            for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from_table(table)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise DeviceError(
                f"the cluster gave up ({reason[0]}): run the same command again, it goes on with "
                f"what is missing"
            ) from error


@dataclass(frozen=True, slots=True)
class _Operator:
    """A stage, from tables to tables."""

    stage: Stage

    def __call__(self, table: "Table") -> "Iterator[Table]":
        """Yield a clip at a time: all frames of a film do not fit into memory."""
        for clip in self.stage(from_table(table)):
            yield to_table([clip])
