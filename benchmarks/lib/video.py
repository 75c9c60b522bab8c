"""Measure a video: how long its parts take, cold and warm, how much memory and energy it needs.

A row runs in a process of its own with an empty cache. It opens the bundle (and checks its
digests), loads, compiles and makes a first video (cold, also the warm-up; the file system's cache
may be warm), then `runs` more (warm). The parts of a video have a clock each: loading (stages that
are not kept between videos), text encoder, every U-Net step, decoder, post-processing (checks,
8-bit frames), MP4 encoding; "other" is the rest of the whole. Joules are those that
`runtime/devices/energy.py` tells of; measures that end in `_j` have no values where it tells none.
Prompt and seed are fixed, so that all rows of a shape denoise the same noise.
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
from hummingbird_edge.runtime.devices.energy import EnergyMeter, find_meter
from hummingbird_edge.runtime.files import CACHE_VARIABLE
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Video

__all__ = ["COLD", "PARTS", "empty_cache", "measure_video"]

PARTS = ("load_s", "text_encoder_s", "unet_s", "decoder_s", "post_s", "encode_s")
COLD = ("open", "load", "video")

Measures = dict[str, list[float]]


def measure_video(case: VideoCase) -> Row:
    """Measure one row, in a process that does nothing else."""
    if case.threads is not None:
        _bind_to_cores(case.threads)
    with empty_cache(case.folder):
        memory_before = device_memory_mib()
        started = time.perf_counter()
        pipeline = TextToVideo.from_bundle(
            case.bundle, device=case.device, precision=case.precision
        )
        measures: Measures = defaultdict(list, cold_open_s=[time.perf_counter() - started])
        cold, _ = time_video(pipeline, case.request, case.folder)
        measures |= {"cold_load_s": cold["load_s"], "cold_video_s": cold["video_s"]}
        meter, started = find_meter(), time.perf_counter()
        for _ in range(case.runs):
            warm, frames = time_video(pipeline, case.request, case.folder)
            for name, values in warm.items():
                measures[name] += values
        if not measures["video_j"]:  # each is too short for a coarse meter
            joules = video_joules(pipeline, meter, time.perf_counter() - started)
            measures["video_j"] = [joule / case.runs for joule in joules]
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
) -> tuple[Measures, NDArray[np.uint8]]:
    """Make one video and its file; return the seconds and joules of its parts, and its frames."""
    meter, started = find_meter(), time.perf_counter()
    video, post_s, device_mib = _generate(pipeline, request)
    generated = time.perf_counter()
    video.save(folder / "video.mp4")
    ended = time.perf_counter()
    video_j = video_joules(pipeline, meter, ended - started)
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
        "text_encoder_j": _known(timings.energy.text_encoder_j),
        "unet_j": _known(timings.energy.unet_j),
        "decoder_j": _known(timings.energy.vae_decoder_j),
        "video_j": video_j,
    }
    if device_mib:
        seconds["device_mib"] = [max(device_mib)]
    parts = sum(seconds[name][0] for name in PARTS)
    return {**seconds, "elsewhere_s": [ended - started - parts]}, video.frames


def video_joules(pipeline: TextToVideo, meter: EnergyMeter, seconds: float) -> list[float]:
    """Return the joules since `meter` was made; nothing where it does not tell of all devices."""
    devices = (placement.backend.device for placement in pipeline.placements.values())
    return _known(meter.told(meter.read(), seconds)) if all(map(meter.covers, devices)) else []


def _known(joules: float | None) -> list[float]:
    return [] if joules is None else [joules]


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
def empty_cache(folder: Path) -> Iterator[None]:
    """Give this process an empty cache in `folder`, so that every model is compiled."""
    # Windows keeps files that a session has open.
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as cache:
        os.environ[CACHE_VARIABLE] = cache
        yield
