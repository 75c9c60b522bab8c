"""Who has the workers and what becomes of jobs, without a server."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.serve.job import Job
from hummingbird_edge.serve.jobs import Jobs
from hummingbird_edge.serve.schema import CreateBody
from hummingbird_edge.serve.service import Service
from hummingbird_edge.serve.supervisor import Supervisor

IDLE = [sys.executable, "-c", "import sys; sys.stdin.read()"]
MODEL = Bundle.open(BUILTIN).manifest.name


@pytest.fixture
def supervisor(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """Return one whose workers take no jobs."""

    def start(self: Supervisor, device: str) -> Any:
        return secrets.token_hex(8), subprocess.Popen(IDLE, stdin=subprocess.PIPE)

    monkeypatch.setattr(Supervisor, "_start", start)
    found = Supervisor(service)
    yield found
    found.stop()


def claimed(service: Service, owner: str) -> Job:
    """Return a new job that `owner` makes."""
    service.create(CreateBody(prompt="a red circle"))
    job = service.jobs.claim(owner, "cpu", (MODEL,))
    assert job is not None
    return job


def test_nobody_of_before_goes_on(service: Service, supervisor: Supervisor) -> None:
    """As in a new container: its host has another name than the one that was killed."""
    job = claimed(service, "00000000-1-1")
    supervisor.look()
    found = service.find(job.id)
    assert (found.status, found.owner, found.deaths) == ("queued", None, 0)
    assert not service.jobs.report(job, job.owner, progress=50)


def test_own_workers_go_on_until_they_end(
    service: Service, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.look()
    name, process = supervisor.workers["cpu"]
    job = claimed(service, name)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)  # the clock was set
    supervisor.look()
    assert service.find(job.id).status == "in_progress"
    process.kill()
    process.communicate()
    supervisor.look()
    found = service.find(job.id)
    assert (found.status, found.deaths) == ("queued", 1)
    assert supervisor.workers["cpu"][0] != name


def test_what_only_another_process_has(service: Service, supervisor: Supervisor) -> None:
    """It adds jobs of its own devices and models long after the lock was taken."""
    supervisor.look()
    settings = service.models[MODEL].defaults.model_dump()
    values = {"prompt": "a", "seed": 1, "command": "hb-run", **settings}
    device = service.jobs.add(**values, model=MODEL, device="dml")
    model = service.jobs.add(**values, model="hummingbird", device="auto")
    assert service.jobs.claim("me", "cpu", (MODEL,)) is None
    supervisor.look()
    assert service.find(device).device == "auto"
    assert service.find(model).status == "queued"  # until a server that has it takes over


def test_a_stop_is_no_reason_to_start_workers(service: Service, supervisor: Supervisor) -> None:
    """Workers that a signal reached before their server."""
    supervisor.look()
    name, process = supervisor.workers["cpu"]
    job = claimed(service, name)
    process.kill()
    process.communicate()
    service.is_stopping = lambda: True
    supervisor.look()
    assert supervisor.workers["cpu"] == (name, process)
    assert service.find(job.id).deaths == 0


def test_a_folder_that_is_made_meanwhile_stays(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process adds a job while this one takes over."""
    store, ids = service.store, Jobs.ids
    (store.folder / "videos" / "orphan").mkdir()

    def late(jobs: Jobs) -> set[str]:
        known = ids(jobs)
        store.of(service.create(CreateBody(prompt="a red circle")).id).mkdir()
        return known

    monkeypatch.setattr(Jobs, "ids", late)
    store.remove_orphans(service.jobs)
    (job,) = service.jobs.page(None, 2)
    assert [path.name for path in (store.folder / "videos").iterdir()] == [job.id]


def test_a_file_that_goes_while_it_is_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service.store.of("video_0")
    folder.mkdir()
    (folder / "video.mp4").write_bytes(b"ftyp")
    listings = [[folder / "gone", folder / "video.mp4"], [folder / "video.mp4"]]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(listings.pop(0)))
    assert service.store.size("video_0") == 4
