"""Five thousand clips curated by two nodes, of which one is killed, and by one process.

HUMMINGBIRD_SOAK=1 runs it: half an hour of two cores, and Ray. With HUMMINGBIRD_SOAK_FOLDER the
videos and what was measured of them stay there; the next run takes the videos and measures anew.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from hummingbird_edge.benchmarks.curation import compare
from hummingbird_edge.benchmarks.lib.planted import plan, plant
from hummingbird_edge.distill.curation.curate import curate_folder
from hummingbird_edge.distill.curation.enrich import TemplateEnricher
from hummingbird_edge.distill.curation.filters import Thresholds
from tests.test_planted_faults import assert_same, cluster, curate_on_cluster

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.skipif("HUMMINGBIRD_SOAK" not in os.environ, reason="long: HUMMINGBIRD_SOAK=1"),
]

COUNT, SEED = int(os.environ.get("HUMMINGBIRD_SOAK_VIDEOS", "5000")), 12


def test_five_thousand_clips_outlast_a_node(cluster: Any, tmp_path: Path) -> None:
    place = Path(os.environ.get("HUMMINGBIRD_SOAK_FOLDER", tmp_path))
    folder, videos = place / f"{COUNT}-{SEED}", plan(COUNT, SEED)
    plant(folder, videos, SEED, workers=2)
    for name in ("cluster", "alone"):  # curation would go on from what an earlier run measured
        shutil.rmtree(place / name, ignore_errors=True)
    began = time.monotonic()
    told = curate_on_cluster(cluster, folder, place / "cluster", lose_at=COUNT // 2)
    cluster_s = time.monotonic() - began
    began = time.monotonic()
    report = curate_folder(folder, place / "alone", TemplateEnricher(), Thresholds())
    alone_s = time.monotonic() - began
    print(
        f"{COUNT} videos: {cluster_s:.0f} s on two nodes, later one; {alone_s:.0f} s by a process"
    )
    print(told)
    assert_same(place / "cluster", place / "alone")
    for each in compare(videos, report.clips):
        print(each, f"precision {each.precision:.3f}, recall {each.recall:.3f}")
        assert min(each.precision, each.recall) >= 0.95, each
