"""The stages of a bundle in memory: one at a time, or all of them where they fit."""

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import ceil

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.devices.resident import MemoryMeter, return_freed
from hummingbird_edge.runtime.engines.worker import Limits, needs_worker
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.claims import Claim
from hummingbird_edge.runtime.placement.history import History, StageRecord
from hummingbird_edge.runtime.placement.memory import peaks, readable
from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.placement.plan import Placement, Reason, Sizes
from hummingbird_edge.runtime.placement.planner import Plan, Planner
from hummingbird_edge.runtime.placement.promise import Promise, Source, StagePromise, promise
from hummingbird_edge.runtime.placement.runner import Outcome, Runner
from hummingbird_edge.runtime.placement.tuning import recall_seconds

__all__ = ["Memory", "Stages", "limits_of", "promise_of"]

_SMALL_BYTES = 1 << 30
"""Bundles up to this size stay loaded between videos where memory allows it at all."""
_SHARE = 0.5
"""Of the memory that is free: what larger ones may hold between videos."""
_TURN_S = 0.5
"""Between two looks at whether there is memory now."""
_PATIENCE, _MIN_PATIENCE_S = {True: 20, False: 50}, 120.0
"""A worker may take so many times what was promised, by whether it was measured."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What was planned, expected and measured, in bytes."""

    limit: int
    """What the process was to stay within: `--max-memory`, or what the machine has free."""
    planned: Mapping[str, int]
    """Of each stage, by the plan."""
    predicted: int
    """The most, by the promise."""
    measured: int
    """The most that this process held."""
    workers: int
    """The most that a worker's process held; 0 where there was none."""

    def with_decoding(self, decoding: "Memory") -> "Memory":
        """Return this with that of decoding, which another video was denoised beside."""
        return Memory(
            self.limit + decoding.limit,
            {**self.planned, **decoding.planned},
            self.predicted + decoding.predicted,
            max(self.measured, decoding.measured),
            max(self.workers, decoding.workers),
        )

    def __str__(self) -> str:
        workers = f", a worker {readable(self.workers)}" if self.workers else ""
        return (
            f"at most {readable(self.measured)}{workers}; predicted {readable(self.predicted)}, "
            f"planned {readable(max(self.planned.values()))}, allowed {readable(self.limit)}"
        )

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON; what graphics memory was taken no system tells alike."""
        return {
            "limit_bytes": self.limit,
            "planned_bytes": dict(self.planned),
            "predicted_peak_bytes": self.predicted,
            "peak_bytes": self.measured,
            "worker_peak_bytes": self.workers or None,
            "device_bytes": None,
        }


class Stages:
    """Loads the stages of videos as they are needed."""

    def __init__(
        self, bundle: Bundle, planner: Planner, notices: Notices, keep_loaded: bool = True
    ) -> None:
        """Load nothing yet; `keep_loaded` says that more than one video is to be expected."""
        self.planner = planner
        self.outcomes: dict[str, Outcome] = {}
        """Stage to how it ran last."""
        self.promise = Promise({})
        """What is expected of the video that is planned."""
        self._bundle, self._notices = bundle, notices
        self._cache = planner.cache
        self._is_large = bundle.bytes > _SMALL_BYTES
        self._keeps = keep_loaded or not self._is_large
        self._plan, self._is_resident = Plan({}, {}), False
        self._runners: dict[str, tuple[list[Placement], Runner]] = {}
        self._aside: dict[str, Runner | None] = {}
        self._ahead: dict[str, Future[Runner]] = {}
        self._used_bytes, self._present, self._noted = 0, "", ""
        self._meter, self._peaks, self._claim = MemoryMeter(), dict[str, int](), Claim()

    def plan(self, sizes: Mapping[str, Sizes], steps: int, frames: int) -> None:
        """Plan a video of these stages and sizes; raises RequestError where memory does not do.

        Raises DeviceError where a device that was asked for by name is not here.
        """
        self._plan, room = self._plan_in_turn(sizes)
        if self._plan.note not in ("", self._noted):
            self._notices.note(self._plan.note)
        self._noted = self._plan.note
        self._aside.clear()
        self._ahead.clear()
        first = {stage: each[0] for stage, each in self._plan.placements.items()}
        for placement in first.values():
            _require_present(placement)
        needs = [self.planner.need(placement) for placement in first.values()]
        share = _SHARE if self._is_large and not self.planner.max_memory else 1.0
        self._is_resident = self._keeps and sum(needs) <= share * room
        if not self._is_resident:
            self._runners.clear()
        peak = max(peaks(first, self._bundle.manifest, self._is_resident).values())
        self._claim.set(max(*needs, peak))
        loaded = [stage for stage in first if self._kept(stage) is not None]
        self.promise = promise_of(
            self._bundle, self.planner, self._plan, sizes, steps, frames, loaded, self._is_resident
        )
        self._meter, self._peaks, self._present = MemoryMeter(), {}, ""

    def runner(self, stage: str) -> Runner:
        """Return a planned stage loaded, kept from the last video where its plan is the same."""
        placements, runner = self._plan.placements[stage], self._kept(stage)
        self._see_memory(following=stage)
        if runner is None:
            is_replaced = self._runners.pop(stage, None) is not None
            self._aside.clear()
            if is_replaced:  # its pieces would lie between those of the new size
                return_freed()
            if not self._is_resident:
                self._runners.clear()
            runner = self._loaded_ahead(stage) or self._load(stage, self._plan)
        if self._is_resident:
            self._runners[stage] = placements, runner
        loaded = {runner, *(each for _, each in self._runners.values())}
        self._used_bytes = sum(self.planner.need(each.placement) for each in loaded)
        self.outcomes[stage] = runner.outcome
        self._load_ahead(stage)
        return runner

    def runner_aside(self, stage: str, sizes: Sizes) -> Runner | None:
        """Return a stage loaded next to the present one, or None where memory does not allow it.

        It stays until the next planned stage is loaded.
        """
        if stage not in self._aside:
            self._aside[stage] = None
            try:
                plan = self.planner.plan({stage: sizes}, self.planner.cap - self._used_bytes)
            except RequestError:
                return None
            self._aside[stage] = self._load(stage, plan)
        return self._aside[stage]

    def finish(self, parts_s: Mapping[str, Sequence[float]], load_s: Mapping[str, float]) -> Memory:
        """Remember what a video's stages took, for later promises; returns what memory it took."""
        self._see_memory()
        self.release()
        History.of(self._bundle).add(self._bundle, self._records(parts_s, load_s))
        return Memory(
            self.planner.cap,
            {name: self.planner.need(each[0]) for name, each in self._plan.placements.items()},
            self.promise.memory_bytes,
            self._meter.peak_bytes,
            max((self.outcomes[stage].worker_bytes for stage in self._peaks), default=0),
        )

    def release(self) -> None:
        """Claim no memory any more: the video has ended, or was stopped."""
        self._claim.drop()

    def _plan_in_turn(self, sizes: Mapping[str, Sizes]) -> tuple[Plan, int]:
        """Plan with the memory that the videos before this one leave, or wait until they end.

        Returns the plan and the bytes that it was made for.
        """
        planner, has_told = self.planner, False
        self._claim.set(planner.wanted_bytes(sizes))
        try:
            while True:
                # With a cap of its own the user has shared the memory out.
                held, taken = (0, 0) if planner.max_memory else self._claim.before()
                room = planner.cap - taken
                try:
                    return planner.plan(sizes, room), room
                except RequestError:
                    planner.plan(sizes, planner.cap + held)  # else waiting does not help
                if not has_told:
                    self._notices.note(
                        "waiting for videos that other processes are making: with "
                        f"{readable(held + taken)} for them there is too little memory"
                    )
                has_told = True
                time.sleep(_TURN_S)
        except BaseException:
            self._claim.drop()
            raise

    def _records(
        self, parts_s: Mapping[str, Sequence[float]], load_s: Mapping[str, float]
    ) -> Iterable[tuple[Placement, StageRecord]]:
        for stage in self._plan.placements:
            outcome, seconds = self.outcomes[stage], parts_s.get(stage, ())
            if outcome.is_mixed or not seconds:
                continue
            load, has_compiled = load_s.get(stage, 0.0), outcome.has_compiled
            record = StageRecord(
                sum(seconds) / len(seconds),
                0.0 if has_compiled else load,
                load if has_compiled else 0.0,
                # What stays loaded of a large bundle does so in some runs and not in others.
                0 if self._is_large and self._is_resident else self._peaks.get(stage, 0),
            )
            yield self._plan.placements[stage][0], record

    def _kept(self, stage: str) -> Runner | None:
        """Return the runner of an earlier video, where it was loaded for the present plan."""
        known, runner = self._runners.get(stage, ([], None))
        is_same = runner is not None and runner.is_open and known == self._plan.placements[stage]
        return runner if is_same else None

    def _load(self, stage: str, plan: Plan) -> Runner:
        cap = self.planner.cap
        promised = self.promise.stages.get(stage)
        return Runner(
            self._bundle,
            plan.placements[stage],
            self._cache,
            self._notices,
            plan.passed_over[stage],
            lambda _: limits_of(promised, cap),
        )

    def _load_ahead(self, present: str) -> None:
        """Begin to load the stage after `present`, where they share neither cores nor memory."""
        stages = list(self._plan.placements)
        index = stages.index(present) + 1
        if index == len(stages) or self._kept(stages[index]) is not None:
            return
        following, plan = stages[index], self._plan
        first = plan.placements[following][0]
        devices = (first.backend.device, self.outcomes[present].placement.backend.device)
        fits = self._used_bytes + self.planner.need(first) <= self.planner.cap
        if following in self._ahead or not fits or not any(map(needs_worker, devices)):
            return
        ahead = self._ahead[following] = Future[Runner]()

        def load() -> None:
            try:
                ahead.set_result(self._load(following, plan))
            except BaseException as error:  # for the thread that waits
                ahead.set_exception(error)

        threading.Thread(target=load, daemon=True).start()

    def _loaded_ahead(self, stage: str) -> Runner | None:
        """Return what `_load_ahead` has loaded, when that is done; the wait counts as loading."""
        ahead, started = self._ahead.pop(stage, None), time.perf_counter()
        if ahead is None:
            return None
        runner = ahead.result()
        runner.set_load_s(time.perf_counter() - started)
        return runner

    def _see_memory(self, following: str = "") -> None:
        """Note the peak so far for the stage that has ended, before the `following` one begins."""
        if self._present:
            workers = self.outcomes[self._present].worker_bytes
            self._peaks[self._present] = self._meter.peak_bytes + workers
        self._present = following


def promise_of(
    bundle: Bundle,
    planner: Planner,
    plan: Plan,
    sizes: Mapping[str, Sizes],
    steps: int,
    frames: int,
    loaded: Collection[str] = (),
    stays: bool = False,
) -> Promise:
    """Return what to expect of `plan`'s first placements; `loaded` are stages in memory."""
    first = {stage: each[0] for stage, each in plan.placements.items()}
    parts = {stage: _parts(placement, steps, frames) for stage, placement in first.items()}
    tuned_s = recall_seconds(bundle, sizes, planner.threads)
    history, room = History.of(bundle), planner.room
    return promise(bundle, first, parts, history, tuned_s, loaded, stays, room)


def limits_of(promised: StagePromise | None, cap: int) -> Limits:
    """Return when the worker of a stage has failed: by what was promised, and by memory's cap."""
    if promised is None:
        return Limits(bytes=cap)
    patience = _PATIENCE[promised.source in (Source.EARLIER, Source.TUNED)]
    return Limits(max(_MIN_PATIENCE_S, patience * promised.part_s), bytes=cap)


def _parts(placement: Placement, steps: int, frames: int) -> int:
    """Return in how many parts a video's stage is done."""
    if placement.kind is StageKind.UNET:
        return steps
    return ceil(frames / placement.sizes["frames"]) if placement.kind is StageKind.DECODER else 1


def _require_present(placement: Placement) -> None:
    """Refuse what cannot be had before anything is promised; what `auto` takes is tried anyway."""
    if placement.reason is Reason.REQUESTED:
        from hummingbird_edge.runtime.placement.probe import require_present

        require_present(placement.backend.device)
