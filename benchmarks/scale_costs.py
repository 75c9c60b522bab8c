"""Measure what `scale.py` is fed with: the driver's time a job, and a core's a clip.

    python benchmarks/scale_costs.py

**Driver**: `hb-run --batch` whole, with workers that make nothing: each writes a video that is
there already, as `RayWorker` does with the bytes that a node sends. What is left is the driver:
it reads jobs, hands them out, takes the file's digest and writes a line that stays on the disk. The
time a job is the slope between two numbers of jobs.

Where Ray is installed, a row has its actors, on this machine, which send those bytes: the driver's
processor seconds then have Ray's part too, its seconds also what actors and Ray's processes take.

**Clips**: clips of moving shapes, 512x512 and 48 frames, as `hb-distill curate` takes them: split
at cuts, measured and fingerprinted. Processor seconds of all threads.
"""

import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from hummingbird_edge.benchmarks.lib.chart import stacked_bars
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.results_writer import (
    PARTIAL_RESULTS,
    ResultsWriter,
    require_output,
)
from hummingbird_edge.benchmarks.lib.table import row_table
from hummingbird_edge.benchmarks.lib.workload import PROMPT
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.cli.batch.command import Batch, run_batch
from hummingbird_edge.runtime.cli.batch.crew import Places
from hummingbird_edge.runtime.cli.batch.worker import Answer, Task, Worker
from hummingbird_edge.runtime.cli.ray_cluster import connect
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.files import atomic_path
from hummingbird_edge.runtime.pipeline import TextToVideo

VIDEO_BYTES = 638_000
"""Of 16 noisy frames of 512x320 as MP4: CHANGELOG.md, "Less work after the decoder"."""
OPTIONS = ("frames", "width", "height", "steps", "guidance", "fps", "decoder", "seed")
ACTORS = 4
CLIP_SIDE, CLIP_FRAMES = 512, 48

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker whose every video is there; implements `Worker`."""

    content: bytes
    timings: Mapping[str, Any]

    def start(self) -> None:
        """Nothing has to be loaded."""

    def make(self, task: Task) -> Answer:
        """Write the video."""
        with atomic_path(task.path) as partial_path:
            partial_path.write_bytes(self.content)
        return Answer(dict(self.timings))

    def close(self) -> None:
        """Nothing is left to end."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The same, but the bytes come from an actor of Ray; implements `Worker`."""

    actor: Any
    timings: Mapping[str, Any]

    def start(self) -> None:
        """The actor is there."""

    def make(self, task: Task) -> Answer:
        """Have the actor send the video, and write it."""
        import ray

        return Finished(ray.get(self.actor.send.remote()), self.timings).make(task)

    def close(self) -> None:
        """The actor serves the next batch."""


class Sender:
    """An actor that has a finished video."""

    def __init__(self, size: int) -> None:
        self._content = np.random.default_rng(0).bytes(size)

    def send(self) -> bytes:
        """Return the video."""
        return self._content


@dataclass(frozen=True, slots=True)
class DriverAlone(Batch):
    """A batch whose workers cost nothing."""

    workers: Sequence[Worker]

    def places(self, bundle: Bundle) -> Places:
        """Return a place for each worker."""
        places = {f"worker {n}": partial(_same, each) for n, each in enumerate(self.workers)}
        return lambda: places


def _same(worker: Worker) -> Worker:
    return worker


def driver_row(name: str, workers: Sequence[Worker], jobs: tuple[int, int], runs: int) -> Row:
    """Measure the driver with these workers."""
    slopes = [_slope(partial(_batch_s, workers), jobs) for _ in range(runs)]
    measures = {
        name: tuple(pair[n] for pair in slopes) for n, name in enumerate(("job_s", "job_core_s"))
    }
    metadata = {"jobs": list(jobs), "video_bytes": VIDEO_BYTES}
    return Row(f"driver, {len(workers):,} {name}", measures, metadata)


@contextmanager
def ray_workers(count: int, timings: Mapping[str, Any]) -> Iterator[list[Worker]]:
    """Start actors on this machine."""
    import ray

    connect("local", cpus=1)
    try:
        kind = ray.remote(num_cpus=0)(Sender)
        actors = [kind.remote(VIDEO_BYTES) for _ in range(count)]
        ray.get([actor.send.remote() for actor in actors])
        yield [Sent(actor, timings) for actor in actors]
    finally:
        ray.shutdown()


def _slope(seconds: Callable[[int], tuple[float, float]], jobs: tuple[int, int]) -> list[float]:
    few, many = (seconds(count) for count in jobs)
    return [(b - a) / (jobs[1] - jobs[0]) for a, b in zip(few, many, strict=True)]


def _batch_s(workers: Sequence[Worker], count: int) -> tuple[float, float]:
    """Run a batch of `count` jobs; returns its seconds and processor seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [
            json.dumps({"custom_id": f"job-{n}", "body": {"prompt": PROMPT, "seed": n}})
            for n in range(count)
        ]
        (folder / "jobs.jsonl").write_text("\n".join(lines), encoding="utf-8")
        batch = DriverAlone(
            jobs=folder / "jobs.jsonl",
            folder=folder / "out",
            ray=None,
            bundle=None,
            device="cpu",
            precision="auto",
            max_memory=None,
            low_power=False,
            verify=False,
            options={**dict.fromkeys(OPTIONS), "decoder": "full", "seed": 7},
            workers=workers,
        )
        began, began_core = time.perf_counter(), time.process_time()
        with redirect_stdout(io.StringIO()):
            run_batch(batch, as_json=True, is_quiet=True)
        return time.perf_counter() - began, time.process_time() - began_core


def clip_row(count: int, runs: int) -> Row:
    """Measure what a core does for a clip: decode it; measure and fingerprint it."""
    from hummingbird_edge.distill.curation.duplicates import take_fingerprint
    from hummingbird_edge.distill.curation.filters import measure_motion, measure_quality
    from hummingbird_edge.distill.curation.scenes import read_scenes
    from hummingbird_edge.distill.curation.videos import find_videos
    from hummingbird_edge.distill.data.storage import Folder

    with tempfile.TemporaryDirectory() as folder:
        paths = _write_clips(Path(folder), count)
        times: dict[str, list[float]] = {"decode_s": [], "filters_s": []}
        for _ in range(runs):
            for video in find_videos(Folder.at(folder)):
                began = time.process_time()
                scenes = list(read_scenes(video))
                read = time.process_time()
                for stage in (measure_quality, measure_motion, take_fingerprint):
                    scenes = [found for scene in scenes for found in stage(scene)]
                times["decode_s"].append(read - began)
                times["filters_s"].append(time.process_time() - read)
        metadata = {
            "frames": CLIP_FRAMES,
            "side": CLIP_SIDE,
            "clip_bytes": round(statistics.mean(path.stat().st_size for path in paths)),
        }
    return Row("a clip", {name: tuple(each) for name, each in times.items()}, metadata)


def _write_clips(folder: Path, count: int) -> list[Path]:
    import torch

    from hummingbird_edge.distill.world.shapes.render import render
    from hummingbird_edge.distill.world.shapes.scene import FULL
    from hummingbird_edge.runtime.media.video import write_video

    world = replace(FULL, resolution=CLIP_SIDE, frames=CLIP_FRAMES)
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for path in paths:
        (clip,) = render([world.draw(rng)], world, generator)
        frames = (clip.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        write_video(path, np.ascontiguousarray(frames), 24, {})
    return paths


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, in milliseconds."""
    names = ("job_s", "job_core_s", "decode_s", "filters_s")
    header = ["a job, ms", "of it computing, ms", "decode, ms", "filters, ms"]

    def cells(row: Row) -> list[str]:
        return [
            f"{1e3 * row.median(name):.3g} ({1e3 * row[name].min:.3g} to {1e3 * row[name].max:.3g})"
            if name in row.measures
            else ""
            for name in names
        ]

    return row_table(header, list(rows), cells)


@app.command()
def main(
    jobs: Annotated[int, typer.Option(min=10, help="Of the longer batch.")] = 1000,
    clips: Annotated[int, typer.Option(min=1, help="Clips that are made.")] = 4,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    output: Output = Path("scale_costs.json"),
) -> None:
    """Measure the driver's time a job, and a core's a clip."""
    require_modules("distill", "torch", "cv2", "matplotlib")
    require_output(output)
    writer = ResultsWriter("scale_costs", Bundle.open(BUILTIN), output)
    video = TextToVideo.from_bundle()(PROMPT)
    worker = Finished(Sender(VIDEO_BYTES).send(), video.timings.as_dict())
    counts = (jobs // 10, jobs)
    for workers in (1, 100, 1000):
        writer.add(driver_row("workers", [worker] * workers, counts, runs))
    if find_spec("ray") is not None:
        with ray_workers(ACTORS, worker.timings) as actors:
            writer.add(driver_row("actors of Ray", actors, counts, runs))
    writer.add(clip_row(clips, runs))
    rows = writer.rows
    writer.publish(
        rows,
        table(rows),
        lambda axes: stacked_bars(
            axes, rows, ["job_s", "decode_s", "filters_s"], ["job", "decode", "filters"], "seconds"
        ),
    )


if __name__ == "__main__":
    run_command(app, "scale_costs.py", PARTIAL_RESULTS)
