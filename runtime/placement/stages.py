"""The stages of a bundle in memory: one at a time, or all of them where they fit."""

from collections.abc import Mapping

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.placement.plan import Placement, Sizes
from hummingbird_edge.runtime.placement.planner import Plan, Planner
from hummingbird_edge.runtime.placement.runner import Outcome, Runner

__all__ = ["Stages"]

_RESIDENT_BYTES = 1 << 30
"""Bundles up to this size stay loaded between videos; larger ones are freed stage by stage."""


class Stages:
    """Loads the stages of videos as they are needed."""

    def __init__(self, bundle: Bundle, planner: Planner, notices: Notices) -> None:
        self.planner = planner
        self.outcomes: dict[str, Outcome] = {}
        """Stage to how it ran last."""
        self._bundle, self._notices = bundle, notices
        self._cache = CompileCache.of_bundle(bundle.digest)
        self._plan, self._is_resident = Plan({}, {}), False
        self._runners: dict[str, tuple[list[Placement], Runner]] = {}
        self._aside: dict[str, Runner | None] = {}
        self._used_bytes = 0
        self._noted = ""

    def plan(self, sizes: Mapping[str, Sizes]) -> None:
        """Plan a video of these stages and sizes; raises RequestError where memory does not do."""
        self._plan = self.planner.plan(sizes)
        if self._plan.note not in ("", self._noted):
            self._notices.note(self._plan.note)
        self._noted = self._plan.note
        self._aside.clear()
        needs = [self.planner.need(each[0]) for each in self._plan.placements.values()]
        max_memory = self.planner.max_memory
        self._is_resident = self._bundle.bytes <= _RESIDENT_BYTES and (
            max_memory is None or sum(needs) <= max_memory
        )

    def runner(self, stage: str) -> Runner:
        """Return a planned stage loaded, kept from the last video where its plan is the same."""
        placements = self._plan.placements[stage]
        known, runner = self._runners.pop(stage, ([], None))
        if runner is None or known != placements or not runner.is_open:
            del runner  # before the next is loaded
            self._aside.clear()
            if not self._is_resident:
                self._runners.clear()
            runner = self._load(stage, self._plan)
        if self._is_resident:
            self._runners[stage] = placements, runner
        loaded = {runner, *(each for _, each in self._runners.values())}
        self._used_bytes = sum(self.planner.need(each.placement) for each in loaded)
        self.outcomes[stage] = runner.outcome
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

    def _load(self, stage: str, plan: Plan) -> Runner:
        return Runner(
            self._bundle,
            plan.placements[stage],
            self._cache,
            self._notices,
            plan.passed_over[stage],
        )
