"""Curation finds planted faults, and the same by one process, by several and by a cluster."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hummingbird_edge.benchmarks.curation import compare
from hummingbird_edge.benchmarks.lib.planted import Planted, plan, plant
from hummingbird_edge.distill.curation.curate import curate_folder
from hummingbird_edge.distill.curation.enrich import TemplateEnricher
from hummingbird_edge.distill.curation.filters import Thresholds
from hummingbird_edge.distill.curation.pipeline import Here
from hummingbird_edge.distill.curation.report import Report
from tests.conftest import command_line
from tests.test_cluster import needs_ray

pytestmark = pytest.mark.slow  # makes and measures videos

Command = Callable[..., "subprocess.CompletedProcess[str]"]

COUNT, SEED = 60, 11
RESULTS = ("kept.jsonl", "dropped.json")


@pytest.fixture(scope="module")
def videos() -> list[Planted]:
    return plan(COUNT, SEED)


@pytest.fixture(scope="module")
def folder(videos: list[Planted], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant(folder, videos, SEED)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Return what one process made of the folder, and where."""
    out = tmp_path_factory.mktemp("alone")
    return out, curate_folder(folder, out, TemplateEnricher(), Thresholds())


def assert_same(out: Path, other: Path) -> None:
    for name in RESULTS:
        assert (out / name).read_bytes() == (other / name).read_bytes(), name


def test_planted_faults_are_found(videos: list[Planted], alone: tuple[Path, Report]) -> None:
    """Of 60 videos with 6 of each fault one may go wrong; benchmarks/curation.py takes more."""
    found = compare(videos, alone[1].clips)
    assert {each.fault for each in found} == {video.fault for video in videos} - {""}
    missed = sum(each.planted - each.both for each in found)
    wrong = sum(each.found - each.both for each in found)
    assert missed + wrong <= 1, found


def test_several_processes_keep_the_same(
    folder: Path, alone: tuple[Path, Report], tmp_path: Path
) -> None:
    curate_folder(folder, tmp_path, TemplateEnricher(), Thresholds(), runner=Here(2))
    assert_same(tmp_path, alone[0])


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_command_leaves_no_process_and_goes_on(
    folder: Path, alone: tuple[Path, Report], tmp_path: Path
) -> None:
    command = command_line("hb-distill", "curate", folder, tmp_path, "--workers", 2)
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stderr is not None
        started.stderr.readline()  # some videos are done
        workers = psutil.Process(started.pid).children(recursive=True)
        assert len(workers) >= 2
        started.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    curate_folder(folder, tmp_path, TemplateEnricher(), Thresholds())
    assert_same(tmp_path, alone[0])


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Start a head without processors and two nodes with one each, which are soon missed."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs ray: pip install '.[cluster]'")
    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
    found = utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": soon}
    )
    try:
        found.nodes = [found.add_node(num_cpus=1) for _ in range(2)]
        yield found
    finally:
        found.shutdown()


def curate_on_cluster(
    cluster: Any, folder: Path, out: Path, lose_at: int, cwd: Path | None = None
) -> str:
    """Run the command on the cluster, and kill a node when so many videos are done."""
    command = command_line("hb-distill", "curate", folder, out, "--ray", cluster.address)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    ) as started:
        assert started.stderr is not None
        for line in started.stderr:  # ten lines of progress, such as 24/60
            if (done := re.match("([0-9]+)/", line)) and int(done[1]) >= lose_at:
                break
        assert started.poll() is None, started.communicate()
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        told, errors = started.communicate()
    assert started.returncode == 0, errors
    return told


@needs_ray
def test_a_cluster_that_loses_a_node_keeps_the_same(
    cluster: Any, folder: Path, alone: tuple[Path, Report], tmp_path: Path
) -> None:
    """And no worker imports from the folder of the command."""
    for name in ("cv2.py", "scenedetect.py"):
        (tmp_path / name).write_text("raise ImportError('not this one')", encoding="utf-8")
    told = curate_on_cluster(cluster, folder, tmp_path, lose_at=COUNT // 4, cwd=tmp_path)
    assert f"| kept | {len(alone[1].kept)} |" in told
    assert_same(tmp_path, alone[0])


@needs_ray
def test_a_stage_that_fails_on_a_cluster_says_why(
    hb: Command, folder: Path, alone: tuple[Path, Report], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install '.[cluster]'")
    videos, shards = tmp_path / "videos", tmp_path / "out" / "shards"
    videos.mkdir()
    copy = Path(shutil.copy(folder / alone[1].kept[0].name, videos))
    copy.with_suffix(".txt").write_text("a clip", encoding="utf-8")
    shards.parent.mkdir()
    shards.write_text("in the way", encoding="utf-8")
    done = hb("hb-distill", "curate", videos, shards.parent, "--ray", "local", "--pack")
    assert "Traceback" not in done.stderr
    assert re.search("^hb-distill: .*out cannot be written .*: choose another$", done.stderr, re.M)


def test_without_a_cluster_one_sentence_says_so(hb: Command, folder: Path, tmp_path: Path) -> None:
    done = hb("hb-distill", "curate", folder, tmp_path / "out", "--ray", "127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert re.match(
        "hb-distill: (this needs ray|there is no Ray cluster at '127.0.0.1:1')", done.stderr
    )
    done = hb("hb-distill", "curate", folder, tmp_path, "--ray", "auto", "--workers", 2)
    assert done.returncode == 2
    assert "--ray has workers of its own" in done.stderr
    assert not (tmp_path / "out").exists()
