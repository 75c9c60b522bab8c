"""A stage while it runs: loaded in the first way that works, and in the next one should it fail."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Placed
from hummingbird_edge.runtime.engines.session import Session, open_session
from hummingbird_edge.runtime.engines.tiled import TiledSession
from hummingbird_edge.runtime.errors import DeviceError, OutOfMemoryError
from hummingbird_edge.runtime.placement.plan import Placement, Sizes, smaller

__all__ = ["Runner"]


class Runner:
    """One stage of a bundle, loaded."""

    def __init__(
        self,
        bundle: Bundle,
        stage: str,
        ways: Iterable[Placement],
        cache: Path | None,
        notify: Callable[[str], None],
    ) -> None:
        """Load `stage` in the first of `ways` that works; raises DeviceError where none does."""
        self.stage, self._load_s = stage, 0.0
        self.refusals: list[str] = []
        """Why ways before the present one were passed over."""
        self._bundle, self._cache, self._notify = bundle, cache, notify
        self._left = deque(ways)
        self._session: Session | None
        self._session, self._way = self._open_next()

    @property
    def sizes(self) -> Sizes:
        """The sizes of the free axes of one run."""
        return self._way.sizes

    @property
    def placed(self) -> Placed:
        """Where and how it runs."""
        assert self._session is not None
        return Placed(
            self._way.backend, self._session.share, self._way.why, len(self._way.tiles or "1")
        )

    @property
    def is_open(self) -> bool:
        """Whether a session is loaded: none is after the last way failed."""
        return self._session is not None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's first output; raises DeviceError where no way is left.

        A way that fails is left for the next one, for good, where that takes the same sizes.
        """
        while (output := self.try_run(inputs)) is None:
            pass
        return output

    def try_run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32] | None:
        """Return the graph's first output, or None where it failed and another way is loaded now.

        That way may take less at once: see `sizes`. Raises DeviceError where no way is left.
        """
        assert self._session is not None
        try:
            return self._session.run(inputs)
        except DeviceError as error:
            failure = error
            # They hold the frames of the failed session, whose memory is needed.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        self._fall_back(failure)
        return None

    def take_load_s(self) -> float:
        """Return the seconds spent loading since this was asked last."""
        seconds, self._load_s = self._load_s, 0.0
        return seconds

    def _fall_back(self, error: DeviceError) -> None:
        """Load less at once after an out of memory, else the next way; raises `error` if none."""
        failed, self._session = self._way, None
        self._put_smaller_first(failed, error)
        if not self._left:
            raise error
        self._session, self._way = self._open_next()
        self._notify(
            f"{self.stage} failed on {failed.backend} ({error}): going on with {self._way.backend}"
            f"{_at_once(self._way)}"
        )

    def _put_smaller_first(self, way: Placement, error: DeviceError) -> None:
        less = smaller(way)
        if less is not None and isinstance(error, OutOfMemoryError):
            self._left.appendleft(less)

    def _open_next(self) -> tuple[Session, Placement]:
        started = time.perf_counter()
        while self._left:
            way = self._left.popleft()
            try:
                session = self._open(way)
            except DeviceError as error:
                self._put_smaller_first(way, error)
                self.refusals.append(str(error))
                continue
            self._load_s += time.perf_counter() - started
            return session, way
        if len(self.refusals) == 1:
            raise DeviceError(self.refusals[0])
        raise DeviceError(f"no device could load {self.stage}: {'; '.join(self.refusals)}")

    def _open(self, way: Placement) -> Session:
        device = way.backend.device
        if way.why == "first that works" and device.needs_proof:
            _require_works(device.name)
        if len(way.tiles or ()) > 1:
            return TiledSession(self._bundle, way, self._cache, self._notify)
        graph = self._bundle.graph(self.stage, device.family, way.backend.graph)
        return open_session(graph, way.backend, way.sizes, self._cache, self._notify)


def _at_once(way: Placement) -> str:
    frames = way.sizes.get("frames")
    if frames is None:
        return ""
    tiles = len(way.tiles or ())
    return f", {frames} frames at once" + (f", each in {tiles} tiles" if tiles > 1 else "")


def _require_works(name: str) -> None:
    """Raise DeviceError where a device fails on trial."""
    from hummingbird_edge.runtime.placement.probe import probe

    verdict = probe(name)
    if not verdict.works:
        raise DeviceError(f"{name} is installed and does not work: {verdict.reason}")
