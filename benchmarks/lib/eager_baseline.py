"""The cost of a video in PyTorch's eager mode: stages are timed a few times and multiplied.

A hundred runs of a U-Net would take hours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hummingbird_edge.benchmarks.lib.machine import peak_mib
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.timing import time_runs
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from hummingbird_edge.export.models.config import ModelConfig

__all__ = ["EagerModel", "EagerStage", "combine_stages", "measure_stage"]


@dataclass(frozen=True, slots=True)
class EagerModel:
    """A model in PyTorch and how often a video runs its U-Net."""

    name: str
    config: "ModelConfig"
    steps: int
    passes: int = 1
    """U-Net runs a step: 2 with classifier-free guidance."""

    def stages(self, bundle: Bundle, request: Request, runs: int) -> Iterator["EagerStage"]:
        """Yield the stages of a video, shaped as `bundle` shapes them."""
        for stage, sizes in request.stage_sizes(bundle.manifest).items():
            chunks = -(-request.frames // sizes.get("frames", 1))
            counts = {"text_encoder": self.passes, "unet": self.passes * self.steps}
            times = counts.get(stage, chunks)
            yield EagerStage(self.name, stage, self.config, bundle.folder, sizes, times, runs)


@dataclass(frozen=True, slots=True)
class EagerStage:
    """One stage to time."""

    model: str
    stage: str
    config: "ModelConfig"
    bundle: Path
    sizes: Mapping[str, int]
    times: int
    """How often a video runs the stage."""
    runs: int
    """Timed runs."""

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.model}: {self.stage}"


def measure_stage(task: EagerStage) -> Row:
    """Time one stage, in a process that does nothing else."""
    from hummingbird_edge.benchmarks.lib.eager import eager_run, random_module
    from hummingbird_edge.runtime.placement.trial import example_inputs

    inputs = example_inputs(Bundle.open(task.bundle).manifest, task.stage, task.sizes)
    module = random_module(task.config, task.stage, float16_storage=False)
    _, seconds = time_runs(eager_run(module, inputs), task.runs)
    measures = {f"{task.stage}_run_s": seconds[1:], "peak_mib": (peak_mib(),)}
    return Row(task.name, measures, {f"{task.stage}_times": task.times})


def combine_stages(name: str, stages: list[tuple[EagerStage, Row]]) -> Row:
    """Return the row of a video from the rows of its stages: medians, multiplied."""
    failures = [row.failure for _, row in stages if row.failure]
    if failures:
        return Row(name, failure=failures[0])
    measures, metadata = dict[str, tuple[float, ...]](), dict[str, object]()
    least = most = total = 0.0
    for task, row in stages:
        measure = f"{task.stage}_run_s"
        run = row[measure]
        total += task.times * run.median
        least, most = least + task.times * run.min, most + task.times * run.max
        measures[measure] = row.measures[measure]
        metadata |= row.metadata
    measures |= {
        "computing_s": (total,),
        "computing_least_s": (least,),
        "computing_most_s": (most,),
        "peak_mib": (max(row.median("peak_mib") for _, row in stages),),
    }
    return Row(name, measures, {**metadata, "method": "stages timed a few times and multiplied"})
