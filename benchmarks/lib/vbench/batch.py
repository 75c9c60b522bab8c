"""A run's videos made as `hb-run --batch` makes them: on several devices, or on a cluster."""

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace

from hummingbird_edge.benchmarks.lib.record import write_file
from hummingbird_edge.benchmarks.lib.vbench.run import Run, put
from hummingbird_edge.benchmarks.lib.vbench.suite import Sample
from hummingbird_edge.runtime.cli.batch.command import Batch, run_batch
from hummingbird_edge.runtime.cli.batch.results import digest_of, finished_videos
from hummingbird_edge.runtime.request import Request

__all__ = ["make_by_batch"]


def make_by_batch(run: Run, samples: Sequence[Sample], batch: Batch) -> None:
    """Make videos in the folder of `batch`, and move them to the run.

    What an earlier batch has finished there is not made again; the folder goes when all are moved.
    `batch` says where and how: jobs and settings are the run's. Raises GenerationError at the end,
    where videos could not be made, DeviceError, OutputError.
    """
    lines = [
        {"custom_id": each.file, "body": {"prompt": each.prompt, "seed": each.seed}}
        for each in samples
    ]
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    batch.folder.mkdir(exist_ok=True)
    write_file(batch.jobs, text.encode())
    try:
        with redirect_stdout(sys.stderr):  # the result is the run
            run_batch(replace(batch, options={"seed": 0, **run.record["video"]}), False, False)
    finally:
        _take(run, samples, batch)
    shutil.rmtree(batch.folder, ignore_errors=True)


def _take(run: Run, samples: Sequence[Sample], batch: Batch) -> None:
    """Move what is finished."""
    model = run.record["model"]["bundle_sha256"]
    wanted = {
        each.file: digest_of(Request(each.prompt, seed=each.seed, **run.record["video"]), model)
        for each in samples
    }
    found = finished_videos(batch.folder, wanted)
    for sample in samples:
        if (source := found.get(sample.file)) is not None:
            put(run, sample, source.replace)
