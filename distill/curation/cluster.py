"""Stages on a Ray cluster: each is an operator of a Ray Data pipeline.

Ray fuses the operators, so that a batch goes through all of them in one task and its frames stay in
one process. A task of a node that dies is done again elsewhere.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hummingbird_edge.distill.curation.candidate import from_table, to_table
from hummingbird_edge.distill.curation.pipeline import Batch, Stage
from hummingbird_edge.runtime.cli.ray_cluster import connect
from hummingbird_edge.runtime.errors import DeviceError, HummingbirdError

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["OnRay"]


@dataclass(frozen=True, slots=True)
class OnRay:
    """The Ray cluster that this process is connected to."""

    @classmethod
    def connect(cls, address: str) -> "OnRay":
        """Connect to HOST:PORT, `auto`, or `local`, which is started.

        Raises DeviceError, RequestError.
        """
        connect(address)
        return cls()

    def run(self, stages: Sequence[Stage], batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield what becomes of the batches, in any order.

        Raises DeviceError, and what a stage raises of the project's errors and of OSError.
        """
        if not batches:
            return
        import ray.data
        from ray.exceptions import RayError

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what is raised says it
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        data = ray.data.from_arrow([to_table(batch) for batch in batches])
        for stage in stages:
            data = data.map_batches(_Operator(stage), batch_size=None, batch_format="pyarrow")
        try:
            for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from_table(table)
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            said, *_ = str(cause).strip().splitlines() or [type(cause).__name__]  # then Ray's part
            if isinstance(cause, HummingbirdError):
                raise type(cause)(said) from error
            if isinstance(cause, OSError):
                raise OSError(said) from error
            raise DeviceError(
                f"the cluster gave up ({said}): run the same command again, it goes on with "
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
