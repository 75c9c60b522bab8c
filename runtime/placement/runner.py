"""A stage while it runs: loaded by the first placement that works, then the next should it fail."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.loading import Opener, open_session, open_stage
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.engines.tiled import TiledSession
from hummingbird_edge.runtime.engines.worker import Limits, Worker, needs_worker
from hummingbird_edge.runtime.errors import DeviceError, OutOfMemoryError
from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.placement.plan import MIN_SHARE, Placement, Reason, Sizes

__all__ = ["Outcome", "Runner"]


@dataclass(slots=True)
class Outcome:
    """How a stage was run: all that is left of a runner when it is gone."""

    placement: Placement
    is_mixed: bool = False
    """Whether another placement failed amid the work."""
    has_compiled: bool = False
    """Whether loading compiled something, as far as the engine tells."""
    worker_bytes: int = 0
    """The most memory of a process of its own; 0 without one."""


class Runner:
    """One stage of a bundle, loaded."""

    def __init__(
        self,
        bundle: Bundle,
        placements: Iterable[Placement],
        cache: CompileCache | None,
        notices: Notices,
        passed_over: Iterable[str] = (),
        limits: Callable[[Placement], Limits] = lambda _: Limits(),
    ) -> None:
        """Load the first of `placements` that works; raises DeviceError where none does.

        `limits` says when a stage that runs in a process of its own has failed.
        """
        self._bundle, self._cache, self._notices = bundle, cache, notices
        self._limits = limits
        self._left, self._load_s = deque(placements), 0.0
        if not self._left:
            raise DeviceError("no device could load the stage: there is no placement to try")
        self.outcome = Outcome(self._left[0])
        for reason in passed_over:
            notices.warn(reason)
        self._session: Session | None = None
        self._worker: Worker | None = None
        self._load_next()

    @property
    def placement(self) -> Placement:
        """How the stage runs now."""
        return self.outcome.placement

    @property
    def sizes(self) -> Sizes:
        """The sizes of the free axes of one run."""
        return self.placement.sizes

    @property
    def is_open(self) -> bool:
        """Whether a session is loaded: none is after the last placement failed."""
        return self._session is not None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's first output; raises DeviceError where no placement is left.

        A placement that fails is left for the next one, for good, where that takes the same sizes.
        """
        while (output := self.try_run(inputs)) is None:
            pass
        return output

    def try_run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32] | None:
        """Return the graph's first output, or None where it failed and the next one is loaded now.

        That one may take less at once: see `sizes`. Raises DeviceError where none is left.
        """
        assert self._session is not None
        try:
            output = self._session.run(inputs)
            self._require_finite(output)
        except DeviceError as error:
            failure = error
            # They hold the frames of the failed session, whose memory is needed.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        else:
            self._see_share()  # some engines know it only after a run
            return output
        self._fall_back(failure)
        return None

    def take_load_s(self) -> float:
        """Return the seconds spent loading since the last call."""
        seconds, self._load_s = self._load_s, 0.0
        return seconds

    def set_load_s(self, seconds: float) -> None:
        """Say what loading took of the caller's time, where other work hid some of it."""
        self._load_s = seconds

    def _require_finite(self, output: NDArray[np.float32]) -> None:
        """Raise DeviceError for NaN where another device can be asked; else the caller tells."""
        if self._left and not np.isfinite(output).all():
            raise DeviceError("it gave NaN or infinite values")

    def _fall_back(self, error: DeviceError) -> None:
        """Load less at once after an out of memory, else the next placement; raises `error`."""
        failed, self._session, self._worker = self.placement, None, None
        self.outcome.is_mixed = True
        self._put_smaller_first(failed, error)
        if not self._left:
            raise error
        self._load_next()
        self._notices.warn(
            f"{failed.stage} failed on {failed.backend} ({error}): going on with "
            f"{self.placement.backend}{_at_once(self.placement)}"
        )

    def _put_smaller_first(self, placement: Placement, error: DeviceError) -> None:
        less = placement.smaller()
        if less is not None and isinstance(error, OutOfMemoryError):
            self._left.appendleft(less)

    def _load_next(self) -> None:
        started, refused = time.perf_counter(), list[str]()
        while self._left:
            placement = self._left.popleft()
            try:
                self._session = self._open(placement)
            except DeviceError as error:
                self._put_smaller_first(placement, error)
                refused.append(str(error))
                continue
            self._load_s += time.perf_counter() - started
            self.outcome.placement = placement
            for reason in refused:
                self._notices.warn(reason)
            self._see_share()
            return
        if len(refused) == 1:
            raise DeviceError(refused[0])
        raise DeviceError(f"no device could load {self.placement.stage}: {'; '.join(refused)}")

    def _open(self, placement: Placement) -> Session:
        device = placement.backend.device
        if placement.reason is Reason.FIRST and device.needs_proof:
            _require_works(device.name)
        cache, note = self._cache, self._note
        self._worker = Worker(self._limits(placement)) if needs_worker(device) else None
        opener: Opener = open_session if self._worker is None else self._worker.open
        if placement.tiles is not None and placement.is_tiled:
            (head, sizes), (tail, _) = placement.graphs()
            return TiledSession.open(
                self._bundle,
                placement.backend,
                placement.tiles,
                (head, tail),
                sizes["frames"],
                cache,
                note,
                opener,
            )
        return open_stage(
            self._bundle, placement.stage, placement.backend, placement.sizes, cache, note, opener
        )

    def _note(self, text: str) -> None:
        """Pass on what an engine says before it compiles."""
        self.outcome.has_compiled = True
        self._notices.note(text)

    def _see_share(self) -> None:
        """Note what share of the nodes the device took, aloud where that is little."""
        assert self._session is not None
        before, share = self.placement, self._session.share
        self.outcome.placement = replace(before, share=share)
        if self._worker is not None:
            self.outcome.worker_bytes = max(self.outcome.worker_bytes, self._worker.peak_bytes)
        if share < MIN_SHARE and share != before.share:
            self._notices.warn(
                f"only {100 * share:.0f} % of {before.stage} ran on {before.backend.device.name}, "
                f"the rest on the CPU"
            )


def _at_once(placement: Placement) -> str:
    frames = placement.sizes.get("frames")
    if frames is None:
        return ""
    tiles = f", each in {len(placement.tiles or ())} tiles" if placement.is_tiled else ""
    return f", {frames} frames at once{tiles}"


def _require_works(name: str) -> None:
    """Raise DeviceError where a device fails on trial."""
    from hummingbird_edge.runtime.placement.probe import probe

    verdict = probe(name)
    if not verdict.works:
        raise DeviceError(f"{name} is installed and does not work: {verdict.reason}")
