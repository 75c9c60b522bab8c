"""The simulated cluster against what can be worked out without simulating."""

import json
import math
from pathlib import Path

import msgspec
import pytest

from hummingbird_edge.benchmarks.lib.figures import Figures, read_figures
from hummingbird_edge.benchmarks.lib.simulation import curate, generate
from hummingbird_edge.benchmarks.scale import FIGURES, parse_nodes
from hummingbird_edge.runtime.errors import RequestError

ROUTES = pytest.mark.parametrize("by_head", [True, False])


def figures(**changes: float) -> Figures:
    """Return the figures of the benchmark, without chance."""
    return msgspec.structs.replace(read_figures(FIGURES).figures, spread_ratio=0.0, **changes)


def gigabit_s(size: float) -> float:
    """Return the seconds of so many bytes at 10 Gbit/s."""
    return size * 8 / 10e9


@ROUTES
def test_one_node_takes_the_sum_of_its_parts(by_head: bool) -> None:
    given, jobs = figures(), 7
    found = generate(given, 1, jobs, by_head)
    fetch_s = gigabit_s(given.bundle_bytes)
    send_s = gigabit_s(given.video_bytes) + 1 / given.requests_per_s
    if by_head:
        send_s += gigabit_s(given.video_bytes)  # to the head, and from there to the store
    else:
        fetch_s += math.ceil(given.bundle_bytes / given.piece_bytes) / given.requests_per_s
    one_s = given.video_s + send_s + given.job_s
    start_s = 1 / given.actors_per_s + fetch_s + given.start_s
    assert found.seconds == pytest.approx(start_s + jobs * one_s)
    assert found.per_s == pytest.approx(1 / one_s)
    assert found.efficiency == pytest.approx(jobs * given.video_s / found.seconds)


@ROUTES
def test_the_driver_limits_quick_jobs(by_head: bool) -> None:
    given = figures(video_s=0.1, video_bytes=1, start_s=1, job_s=0.02, bundle_bytes=1)
    found = generate(given, 50, 40, by_head)
    assert found.per_s == pytest.approx(1 / given.job_s, rel=0.02)
    assert found.limit == "driver"
    assert found.shares["driver"] > 0.9


def test_the_store_limits_large_videos() -> None:
    """By its bandwidth over their size, however many write."""
    given = figures(video_s=1, video_bytes=1e9, start_s=1, bundle_bytes=1)
    for nodes in (40, 80):
        found = generate(given, nodes, 20, by_head=False)
        assert found.per_s == pytest.approx(100e9 / 8 / given.video_bytes, rel=0.05)
        assert found.limit == "store's bandwidth"
    through = generate(given, 40, 20, by_head=True)
    assert through.limit == "head's link"
    # Each comes in and goes out.
    assert through.per_s == pytest.approx(10e9 / 8 / given.video_bytes / 2, rel=0.1)


@ROUTES
def test_a_bundle_is_fetched_once_a_node(by_head: bool) -> None:
    """Through one link one after the other; from the store as many at once as it has streams."""
    given = figures(video_s=1e-6, video_bytes=1, start_s=1e-6, job_s=1e-9, piece_bytes=3e9)
    found, at_once = generate(given, 30, 1, by_head), 1 if by_head else 10
    assert found.seconds == pytest.approx(30 / at_once * gigabit_s(given.bundle_bytes), rel=0.05)


def test_one_core_curates_at_its_rate() -> None:
    given = figures(cores=1, block_clips=10, shard_clips=50)
    found = curate(given, 1, 400)
    block_s = 10 * given.clip_s + gigabit_s(10 * given.clip_bytes)
    block_s += 10 * (given.clip_requests / given.requests_per_s + given.collect_s)
    block_s += 1 / given.tasks_per_s
    shard_s = 2 * gigabit_s(50 * given.clip_bytes) + 52 / given.requests_per_s
    shards_s = 400 * given.kept_ratio / 50 * (shard_s + 1 / given.tasks_per_s)
    assert found.per_s == pytest.approx(10 / block_s)
    assert found.seconds == pytest.approx(40 * block_s + 400 * given.decide_s + shards_s)
    assert found.efficiency == pytest.approx(400 * given.clip_s / found.seconds)


@pytest.mark.parametrize(
    ("changes", "limit", "per_s"),
    [
        ({"clip_bytes": 1.0}, "store's requests", 1000 / 2),
        ({"requests_per_s": 1e9, "tasks_per_s": 1e9}, "store's bandwidth", 100e9 / 8 / 2e6),
        ({"requests_per_s": 1e9, "clip_bytes": 1.0}, "driver", 8 * 355),
    ],
)
def test_what_nodes_share_limits_the_curation(
    changes: dict[str, float], limit: str, per_s: float
) -> None:
    found = curate(figures(clip_s=0.01, collect_s=1e-9, decide_s=1e-9, **changes), 50, 1600)
    assert found.limit == limit
    assert found.per_s == pytest.approx(per_s, rel=0.05)


def test_more_nodes_make_more_and_waste_more() -> None:
    """Of the figures that are published."""
    given = read_figures(FIGURES).figures
    found = [generate(given, nodes, 10, by_head=True) for nodes in (1, 10, 100)]
    rates, efficiencies = [each.per_s for each in found], [each.efficiency for each in found]
    assert rates == sorted(rates)
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert all(0 < each.efficiency < 1 and max(each.shares.values()) <= 1 for each in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_s": {"value": "fast", "source": ""}}, "Expected `float`"),
        ({"clip_s": {"value": 0, "source": ""}}, "clip_s must be above 0"),
        ({"clip_d": {"value": 1, "source": ""}}, "unknown field `clip_d`"),
        ({"clip_s": {"value": 1}}, "missing required field `source`"),
    ],
)
def test_figures_that_are_none_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    entries = json.loads(FIGURES.read_text(encoding="utf-8"))
    entries["measured"] |= change
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(RequestError, match=message):
        read_figures(path)
    with pytest.raises(RequestError, match="holds no figures"):
        read_figures(tmp_path / "none.json")


def test_numbers_of_nodes() -> None:
    assert parse_nodes("100,1,10,1") == [1, 10, 100]
    for text in ("", "1,x", "0,1"):
        with pytest.raises(RequestError, match="--nodes is"):
            parse_nodes(text)
