"""Measure a video: how long its parts take, cold and warm, and how much memory it needs.

A row runs in a process of its own with an empty cache. It opens the bundle (and checks its
digests), loads, compiles and makes a first video (cold, also the warm-up; the file system's cache
may be warm), then `runs` more (warm). The parts of a video have a clock each: loading (stages that
are not kept between videos), text encoder, every U-Net step, decoder, post-processing (checks,
8-bit frames), MP4 encoding; "other" is the rest of the whole. Prompt and seed are fixed, so that
all rows of a shape denoise the same noise.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.cases import VideoCase
from hummingbird_edge.benchmarks.lib.machine import device_memory_mib, peak_mib
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.workload import SEED
from hummingbird_edge.runtime.files import CACHE_VARIABLE
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Video

__all__ = ["COLD", "PARTS", "measure_video"]

PARTS = ("load_s", "text_encoder_s", "unet_s", "decoder_s", "post_s", "encode_s")
COLD = ("open", "load", "video")

Seconds = dict[str, list[float]]


def measure_video(case: VideoCase) -> Row:
    """Measure one row, in a process that does nothing else."""
    if case.threads is not None:
        _bind_to_cores(case.threads)
    with _empty_cache(case.folder):
        memory_before = device_memory_mib()
        started = time.perf_counter()
        pipeline = TextToVideo.from_bundle(
            case.bundle, device=case.device, precision=case.precision
        )
        measures: Seconds = defaultdict(list, cold_open_s=[time.perf_counter() - started])
        cold, _ = time_video(pipeline, case.request, case.folder)
        measures |= {"cold_load_s": cold["load_s"], "cold_video_s": cold["video_s"]}
        for _ in range(case.runs):
            warm, frames = time_video(pipeline, case.request, case.folder)
            for name, values in warm.items():
                measures[name] += values
    np.save(case.frames_file, frames)
    measures["peak_mib"] = [peak_mib()]
    if memory_before is not None:
        measures["device_mib"] = [peak - memory_before for peak in measures["device_mib"]]
    metadata = {
        "placement": {
            stage: f"{placement.backend}, {100 * placement.share:.0f} % of the nodes"
            for stage, placement in pipeline.placements.items()
        },
        "seed": SEED,
        "bundle_sha256": pipeline.bundle.digest,
    }
    return Row(case.name, {name: tuple(values) for name, values in measures.items()}, metadata)


def time_video(
    pipeline: TextToVideo, request: Request, folder: Path
) -> tuple[Seconds, NDArray[np.uint8]]:
    """Make one video and its file; return the seconds of its parts, and its frames."""
    started = time.perf_counter()
    video, post_s, device_mib = _generate(pipeline, request)
    generated = time.perf_counter()
    video.save(folder / "video.mp4")
    ended = time.perf_counter()
    timings, load_s = video.timings, sum(video.timings.load_s.values())
    seconds = {
        "load_s": [load_s],
        "text_encoder_s": [timings.text_encoder_s],
        "unet_step_s": list(timings.unet_step_s),
        "unet_s": [sum(timings.unet_step_s)],
        "decoder_s": [timings.vae_decoder_s],
        "computing_s": [timings.total_s - load_s],
        "post_s": [post_s],
        "encode_s": [ended - generated],
        "video_s": [ended - started],
        "fps": [request.frames / (ended - started)],
    }
    if device_mib:
        seconds["device_mib"] = [max(device_mib)]
    parts = sum(seconds[name][0] for name in PARTS)
    return {**seconds, "elsewhere_s": [ended - started - parts]}, video.frames


def _generate(pipeline: TextToVideo, request: Request) -> tuple[Video, float, list[float]]:
    """Return a video, the seconds of its post-processing, and GPU memory in MiB after each part."""
    device_mib, before = list[float](), time.perf_counter()
    for progress in pipeline.generate(request):
        device_mib += filter(None, [device_memory_mib()])
        now = time.perf_counter()
        if progress.video is not None:
            return progress.video, now - before, device_mib
        before = now
    raise AssertionError("the generator ends with a video")


def _bind_to_cores(count: int) -> None:
    """Bind this process to its first `count` cores, so that every engine uses as many threads."""
    process = psutil.Process()
    process.cpu_affinity((process.cpu_affinity() or [])[:count])


@contextmanager
def _empty_cache(folder: Path) -> Iterator[None]:
    """Give this process an empty cache in `folder`, so that nothing is found compiled."""
    # Windows keeps files that a session has open.
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as cache:
        os.environ[CACHE_VARIABLE] = cache
        yield
