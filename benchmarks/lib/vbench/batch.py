"""A run's videos made by `hb-run --batch`, on as many machines as that has."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hummingbird_edge.benchmarks.lib.record import write_file
from hummingbird_edge.benchmarks.lib.vbench.run import Run, put
from hummingbird_edge.benchmarks.lib.vbench.suite import Sample
from hummingbird_edge.runtime.cli.batch.results import digest_of, finished_videos
from hummingbird_edge.runtime.request import NAMES, Request

__all__ = ["take_videos", "write_jobs"]


def write_jobs(path: Path, run: Run, samples: Sequence[Sample]) -> None:
    """Write a job a video; its custom_id is the video's file."""
    settings = {NAMES.get(name, name): value for name, value in run.record["video"].items()}
    lines = [
        {"custom_id": each.file, "body": {"prompt": each.prompt, "seed": each.seed, **settings}}
        for each in samples
    ]
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    write_file(path, text.encode())


def take_videos(run: Run, samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """Copy what the batch in `folder` has made of these, and return the others; raises OutputError.

    A video of another model, prompt or setting is left where it is.
    """
    model = run.record["model"]["bundle_sha256"]
    wanted = {
        each.file: digest_of(Request(each.prompt, seed=each.seed, **run.record["video"]), model)
        for each in samples
    }
    found = finished_videos(folder, wanted)
    for sample in samples:
        if (source := found.get(sample.file)) is not None:
            put(run, sample, partial(shutil.copyfile, source))
    return [sample for sample in samples if sample.file not in found]
