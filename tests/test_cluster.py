"""A batch on a Ray cluster of two nodes, which are processes of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.cli.batch.cluster import Cluster
from hummingbird_edge.runtime.cli.batch.worker import Settings
from hummingbird_edge.runtime.errors import DeviceError
from tests.conftest import command_line
from tests.test_batch import SMALL, _lines_of, alone, assert_whole, write_jobs
from tests.test_cli import assert_refused

Command = Callable[..., "subprocess.CompletedProcess[str]"]

ON_CLUSTER = tuple(option.replace("cpu+cpu", "cpu") for option in SMALL)


def needs_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that has a cluster."""
    marks = (
        pytest.mark.slow,
        pytest.mark.filterwarnings("ignore"),  # Ray's own
        pytest.mark.skipif(os.name == "nt", reason="Ray has no such cluster for Windows"),
    )
    for mark in marks:
        test = mark(test)
    return test


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """Start a head without processors and two nodes with one each, which share no cache.

    Each has an address of its own, as machines have.
    """
    utils = pytest.importorskip("ray.cluster_utils", reason="needs ray: pip install '.[cluster]'")
    found = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        found.nodes = [
            found.add_node(
                num_cpus=1,
                node_ip_address=f"127.0.0.{n + 2}",
                env_vars={"HUMMINGBIRD_CACHE": str(tmp_path / f"node-{n}")},
            )
            for n in range(2)
        ]
        yield found
    finally:
        found.shutdown()


def start(address: str, jobs: Path, out: Path, cwd: Path | None = None) -> "subprocess.Popen[str]":
    command = ("hb-run", "--batch", jobs, "--output-dir", out, *ON_CLUSTER, "--ray", address)
    return subprocess.Popen(
        command_line(*map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def wait_for_lines(started: "subprocess.Popen[str]", out: Path, count: int) -> None:
    while started.poll() is None and _lines_of(out) < count:
        time.sleep(0.01)
    assert started.poll() is None, started.communicate()


def test_a_full_object_store_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="needs ray: pip install '.[cluster]'")

    def refuse(_: bytes) -> None:
        raise ray.exceptions.ObjectStoreFullError("no room\nfor a piece")

    monkeypatch.setattr(ray, "put", refuse)
    settings = Settings(str(BUILTIN), "", "")
    with pytest.raises(DeviceError, match=r"object store \(.*\): give the store more"):
        Cluster(Bundle.open(BUILTIN), settings, []).pieces()


@pytest.mark.slow
def test_without_ray_or_a_cluster_one_sentence_says_so(hb: Command, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.jsonl", 2)
    options = ("--output-dir", tmp_path / "out", "--ray", "127.0.0.1:1", "--quiet")
    done = hb("hb-run", "--batch", jobs, *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    if "ray" not in sys.modules and not _has_ray():
        assert_refused(done, 1, "hb-run", r"this needs ray, not installed.*\[cluster\]")
    else:
        assert last.startswith("hb-run: there is no Ray cluster at '127.0.0.1:1'")


@needs_ray
@pytest.mark.parametrize(
    "address", ["ray://127.0.0.1:10001", "localhost", "", ":6379/", "x:999999"]
)
def test_what_is_no_address_is_refused(hb: Command, tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install '.[cluster]'")
    jobs = write_jobs(tmp_path / "jobs.jsonl", 2)
    options = ("--output-dir", tmp_path / "out", "--ray", address, "--quiet")
    done = hb("hb-run", "--batch", jobs, *options)
    assert_refused(done, 2, "hb-run", r"--ray is .*: give HOST:PORT, auto or local")


def _has_ray() -> bool:
    from importlib.util import find_spec

    return find_spec("ray") is not None


@needs_ray
def test_a_lost_node_and_a_lost_command_cost_nothing(cluster: Any, tmp_path: Path) -> None:
    """The same bytes as here; one node goes at a third, the command is killed at two thirds."""
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", 24), tmp_path / "out"
    with start(cluster.address, jobs, out) as started:
        wait_for_lines(started, out, 8)
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        wait_for_lines(started, out, 16)
        started.send_signal(signal.SIGKILL)
        started.communicate(timeout=60)
    with start(cluster.address, jobs, out) as started:
        told, errors = started.communicate(timeout=300)
    assert started.returncode == 0, errors
    assert "Traceback" not in errors
    assert told.splitlines()[0] == str(out / "results.jsonl")
    assert_whole(out, 24)
    found = [(out / "videos" / f"job-{n}.mp4").read_bytes() for n in range(24)]
    assert found == alone(tmp_path, 24)


@needs_ray
def test_a_node_that_joins_takes_part(cluster: Any, tmp_path: Path) -> None:
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", 60), tmp_path / "out"
    with start(cluster.address, jobs, out) as started:
        wait_for_lines(started, out, 2)
        for node in cluster.nodes:
            cluster.remove_node(node, allow_graceful=False)
            if node is cluster.nodes[0]:
                cluster.add_node(num_cpus=1)
        _, errors = started.communicate(timeout=300)
    assert started.returncode == 0, errors
    assert "what it was making is made again" in errors
    assert_whole(out, 60)


@needs_ray
def test_a_node_of_no_use_is_left_out(cluster: Any, tmp_path: Path) -> None:
    """One without this package; and no worker imports from the folder of the command."""
    package, folder = tmp_path / "broken" / "hummingbird_edge", tmp_path / "folder"
    for path in (package / "__init__.py", folder / "onnxruntime.py", folder / "openvino.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise ImportError('not this one')", encoding="utf-8")
    cluster.remove_node(cluster.nodes[0])
    cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(package.parent)})
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", 60), tmp_path / "out"
    with start(cluster.address, jobs, out, cwd=folder) as started:
        _, errors = started.communicate(timeout=300)
    assert started.returncode == 0, errors
    (left_out,) = [line for line in errors.splitlines() if "left out" in line]
    assert left_out.startswith("note: node ")
    assert "not this one" in left_out
    assert_whole(out, 60)


@needs_ray
def test_a_bundle_comes_to_each_node_once(cluster: Any, tmp_path: Path) -> None:
    """A model that no node can read from the command's own path."""
    bundle = tmp_path / "bundle"
    shutil.copytree(BUILTIN, bundle)
    entries = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    entries["name"] = "another"
    (bundle / MANIFEST).write_text(json.dumps(entries), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, cluster.address, bundle, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"made": 8, "pieces_put": 1}
    digest = Bundle.open(bundle).digest
    for node in ("node-0", "node-1"):
        (placed,) = (tmp_path / node / "bundles").glob("[!r]*")
        assert placed.name == digest
        assert Bundle.open(placed, verify=True).manifest.name == "another"


PROGRAM = f"""
import json, sys
from importlib.metadata import version
from pathlib import Path
from {Cluster.__module__} import Cluster
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.cli.batch.crew import Crew
from hummingbird_edge.runtime.cli.batch.worker import Settings, Task
from hummingbird_edge.runtime.request import Request

address, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
bundle = Bundle.open(folder)
settings = Settings("/nowhere", bundle.digest, version("hummingbird-edge"))
cluster = Cluster.connect(address, bundle, settings, ["cpu"])
request = Request("a red circle", 2, 64, 64, 1, 7.5, 8, 3)
tasks = [Task(str(n), request, out / f"{{n}}.mp4") for n in range(8)]
made = [answer for _, answer in Crew(tasks, cluster.places).run()]
assert not any(answer.code for answer in made), made
assert all(task.path.exists() for task in tasks)
print(json.dumps({{"made": len(made), "pieces_put": int("_pieces" in vars(cluster))}}))
"""
