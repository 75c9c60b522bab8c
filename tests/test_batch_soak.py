"""A thousand videos in one batch, on a cluster that loses a node and its command.

HUMMINGBIRD_SOAK=1 runs it: minutes of two cores, and Ray.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import command_line
from tests.test_batch import SMALL, assert_whole, read_results, write_jobs
from tests.test_cluster import ON_CLUSTER, cluster, start, wait_for_lines

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.skipif("HUMMINGBIRD_SOAK" not in os.environ, reason="long: HUMMINGBIRD_SOAK=1"),
]

COUNT = int(os.environ.get("HUMMINGBIRD_SOAK_VIDEOS", "1000"))
MAX_OVERHEAD = 1.10


def digests(out: Path) -> dict[str, str]:
    return {each["custom_id"]: each["sha256"] for each in read_results(out)}


def timed(*options: object) -> float:
    """Run a batch to its end; returns the seconds."""
    began = time.monotonic()
    command = command_line("hb-run", "--batch", *options, "--quiet")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def test_a_thousand_videos_outlast_a_node_and_their_command(cluster: Any, tmp_path: Path) -> None:
    """One of two nodes is killed at half time, the command at two thirds; then as it is here."""
    jobs, out, here = (
        write_jobs(tmp_path / "jobs.jsonl", COUNT),
        tmp_path / "out",
        tmp_path / "here",
    )
    with start(cluster.address, jobs, out) as started:
        wait_for_lines(started, out, COUNT // 2)
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        wait_for_lines(started, out, 2 * COUNT // 3)
        started.send_signal(signal.SIGKILL)
        started.communicate(timeout=60)
    found = len(read_results(out))
    print(f"{found} of {COUNT} when the command was killed")
    timed(jobs, "--output-dir", out, *ON_CLUSTER, "--ray", cluster.address)
    assert_whole(out, COUNT)
    timed(jobs, "--output-dir", here, *SMALL)
    assert digests(out) == digests(here)


def test_ray_takes_a_tenth_longer_at_most(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Two nodes of one processor each, against two worker processes of one core each."""
    jobs = write_jobs(tmp_path / "jobs.jsonl", COUNT)
    local_s = timed(jobs, "--output-dir", tmp_path / "here", *SMALL)
    cluster = request.getfixturevalue("cluster")  # what an idle one takes is Ray's too
    options = (*ON_CLUSTER, "--ray", cluster.address)
    ray_s = timed(jobs, "--output-dir", tmp_path / "out", *options)
    assert digests(tmp_path / "out") == digests(tmp_path / "here")
    print(f"{COUNT} videos: {local_s:.1f} s by processes, {ray_s:.1f} s by Ray")
    assert ray_s <= MAX_OVERHEAD * local_s
