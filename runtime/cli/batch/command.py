"""The command `hb-run --batch`."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.hub import find_bundle
from hummingbird_edge.runtime.cli.batch.body import request_of
from hummingbird_edge.runtime.cli.batch.crew import Crew, Places
from hummingbird_edge.runtime.cli.batch.jobs import BatchJob, read_jobs
from hummingbird_edge.runtime.cli.batch.results import (
    Failure,
    Result,
    Results,
    digest_of,
    open_results,
)
from hummingbird_edge.runtime.cli.batch.worker import Answer, Settings, Task
from hummingbird_edge.runtime.command import printable, require_modules, say
from hummingbird_edge.runtime.errors import GenerationError, RequestError
from hummingbird_edge.runtime.files import sha256_of
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.runtime.request import Request

__all__ = ["Batch", "run_batch"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the command is told."""

    jobs: Path
    folder: Path
    ray: str | None
    """The address of a cluster; None for this machine."""
    bundle: str | Path | None
    device: str
    """A worker for each that is joined by `+`."""
    precision: str
    max_memory: int | None
    low_power: bool
    verify: bool
    options: Mapping[str, Any]
    """Settings by the runtime's names: what holds where a body says nothing."""

    @property
    def devices(self) -> list[str]:
        """The device of each worker; raises RequestError."""
        found = self.device.split("+")
        if "" in found:
            raise RequestError(f"--device is {self.device!r}: write names joined by +, as cpu+cpu")
        return found

    def check_devices(self, bundle: Bundle) -> None:
        """Refuse what this machine has not; raises DeviceError or RequestError."""
        for device in self.devices if self.ray is None else ():
            Planner(bundle, device, self.precision, self.max_memory, self.low_power)

    def settings(self, bundle: Bundle) -> Settings:
        """Return what workers are told."""
        return Settings(
            str(bundle.folder.absolute()),
            bundle.digest,
            version("hummingbird-edge"),
            self.precision,
            self.max_memory,
            self.low_power,
        )

    def places(self, bundle: Bundle) -> Places:
        """Return where workers can be; raises DeviceError."""
        settings, devices = self.settings(bundle), self.devices
        if self.ray is None:
            from hummingbird_edge.runtime.cli.batch.local import local_places

            places = local_places(settings, devices)
            return lambda: places
        from hummingbird_edge.runtime.cli.batch.cluster import Cluster

        return Cluster.connect(self.ray, bundle, settings, devices).places


def run_batch(batch: Batch, as_json: bool, is_quiet: bool) -> None:
    """Make the videos of a file of jobs, those that are not there yet.

    Raises RequestError for a file that is none, before any work; GenerationError at the end, where
    jobs have failed; DeviceError, OutputError.
    """
    if batch.ray is not None:
        require_modules("cluster", "ray")
    jobs = read_jobs(batch.jobs)
    bundle = Bundle.open(find_bundle(batch.bundle or BUILTIN), batch.verify)
    batch.check_devices(bundle)
    requests = {job.custom_id: _request(job, batch, bundle) for job in jobs}
    wanted = {
        name: digest_of(found, bundle.digest) if isinstance(found, Request) else None
        for name, found in requests.items()
    }
    began, failed, made = time.monotonic(), dict[str, Failure](), 0
    with open_results(batch.folder, wanted) as results:
        if not is_quiet:
            say(f"{_count(jobs)}, {len(results.finished)} are finished")
        for result in _results(results, requests, wanted, batch, bundle):
            results.add(result)
            made += result.error is None
            if result.error is not None:
                failed[result.custom_id] = result.error
            if not is_quiet:
                done = len(results.finished) + made + len(failed)
                say(f"{done}/{len(jobs)} {printable(result.custom_id)}: {_told(result)}")
    counts = {"finished_before": len(results.finished), "made": made, "failed": len(failed)}
    seconds = round(time.monotonic() - began, 1)
    if as_json:
        print(json.dumps({"path": str(results.file), **counts, "seconds": seconds}))
    else:
        print(f"{results.file}\n{made} made, {len(failed)} failed, {seconds} s")
    if failed:
        name, error = next(iter(failed.items()))
        raise GenerationError(
            f"{len(failed)} of {_count(jobs)} failed, first {name[:80]!r} ({error.message}): "
            f"{_advice(failed.values())}"
        )


def _count(jobs: Sequence[BatchJob]) -> str:
    return f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}"


def _advice(failures: Iterable[Failure]) -> str:
    """Return what to do about jobs that have failed: an invalid one fails every time."""
    if any(failure.code == "invalid_value" for failure in failures):
        return "correct what is invalid, then run the same command again"
    return "the same command tries again"


def _request(job: BatchJob, batch: Batch, bundle: Bundle) -> Request | Failure:
    try:
        return request_of(job.body, batch.options, bundle.manifest)
    except RequestError as error:
        return Failure("invalid_value", f"line {job.line}: {error}")


def _results(
    results: Results,
    requests: Mapping[str, Request | Failure],
    wanted: Mapping[str, str | None],
    batch: Batch,
    bundle: Bundle,
) -> Iterator[Result]:
    """Yield what comes of every job that is not finished."""
    tasks = list[Task]()
    for name, request in requests.items():
        if isinstance(request, Failure):
            yield Result(name, "failed", error=request)
        elif name not in results.finished:
            tasks.append(Task(name, request, results.path(name)))
    if not tasks:
        return
    for task, answer in Crew(tasks, batch.places(bundle)).run():
        yield _result(task, answer, results, wanted[task.custom_id])


def _result(task: Task, answer: Answer, results: Results, digest: str | None) -> Result:
    if answer.code:
        error = Failure(answer.code, answer.message)
        return Result(task.custom_id, "failed", request_sha256=digest, error=error)
    return Result(
        task.custom_id,
        "completed",
        task.path.relative_to(results.folder).as_posix(),
        sha256_of(task.path),
        digest,
        answer.timings,
    )


def _told(result: Result) -> str:
    if result.error is not None:
        return printable(result.error.message)
    assert result.timings is not None
    return f"{result.path} in {result.timings['total_s']:.2f} s"
