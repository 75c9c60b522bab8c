"""A video as a row of a benchmark: what is made, on what, and where its time goes.

Every row is a process of its own with empty caches: it opens the bundle (which digests its files),
loads, compiles and makes a first video (cold, the warm-up too; the file system's own cache may be
warm), then `runs` more (warm). The parts of a video, each by its own clock: loading (what is not
kept between videos), text encoder, every U-Net step, decoder, post-processing (checks and 8-bit
frames), encoding to MP4; "elsewhere" is what is left of the whole. Seed and prompt are fixed, so
that all rows of a shape denoise the same noise.
"""

import itertools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
from platformdirs import user_cache_path

from hummingbird_edge.benchmarks.lib.machine import device_memory_mib, peak_mib
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.subject import size_of
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import precisions_of
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request, parse_size

__all__ = ["CACHES", "COLD", "PARTS", "Case", "cases", "measure", "request_for", "with_agreement"]

PROMPT, SEED = "a red circle moving right", 7
PARTS = ("load_s", "text_encoder_s", "unet_s", "decoder_s", "post_s", "encode_s")
COLD = ("open", "load", "video")
CACHES = ("XDG_CACHE_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA")
"""Where platformdirs looks for a user's cache, on Linux and on Windows."""
_ORDER = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, slots=True)
class Case:
    """One row to be measured."""

    bundle: Path
    device: str
    precision: str
    """As `hb-run --precision` takes it."""
    label: str
    """Of the U-Net's precision."""
    request: Request
    runs: int
    threads: int | None
    folder: Path
    """For frames and videos."""

    @property
    def shape(self) -> str:
        """What is made."""
        steps, decoder = self.request.steps, self.request.decoder
        tiny = ", tiny decoder" if decoder == "tiny" else ""
        return f"{size_of(self.request)}, {steps} step{'' if steps == 1 else 's'}{tiny}"

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.device} {self.label}, {self.shape}"

    @property
    def kept(self) -> Path:
        """Where the last video's frames lie."""
        return self.folder / f"{self.name}.npy".replace(":", "-")


def request_for(
    bundle: Bundle,
    decoder: str = "full",
    size: str | None = None,
    frames: int | None = None,
    steps: int | None = None,
) -> Request:
    """Return the video that is made; what is left out is the bundle's default.

    Raises RequestError for what the model does not take.
    """
    width, height = parse_size(size)
    asked = {"frames": frames, "width": width, "height": height, "steps": steps}
    return Request.for_model(bundle.manifest, PROMPT, SEED, decoder, **asked)


def cases(
    bundle: Bundle,
    devices: list[str],
    precisions: list[str],
    requests: Iterable[Request],
    runs: int,
    threads: int | None,
    folder: Path,
) -> Iterator[Case]:
    """Yield the rows: every request on every device in every precision that is asked for."""
    graphs = bundle.manifest.stage("unet").precisions
    for request, name in itertools.product(requests, devices):
        device = Device.parse(name)
        usual = precisions_of("unet", device, bundle.manifest.stage("unet").trusted)
        ways = dict.fromkeys(precisions)
        if "all" in ways:
            ways = dict.fromkeys(precisions_of("unet", device, graphs))
        for way in ways:
            asked = "auto" if way == "auto" else f"unet={way}"
            decoding = precisions_of(
                request.decoding_stage,
                device,
                bundle.manifest.stage(request.decoding_stage).precisions,
            )
            if way in decoding:
                asked += f",vae={way}"
            label = (usual[0] if usual else "auto") if way == "auto" else way
            yield Case(bundle.folder, name, asked, label, request, runs, threads, folder)


def measure(case: Case) -> Row:
    """Measure one row, in a process that does nothing else."""
    if case.threads is not None:
        limit_threads(case.threads)
    # Windows keeps files that a session has open.
    with tempfile.TemporaryDirectory(dir=case.folder, ignore_cleanup_errors=True) as caches:
        set_caches(caches)
        taken = device_memory_mib()
        started = time.perf_counter()
        pipeline = TextToVideo.from_bundle(
            case.bundle, device=case.device, precision=case.precision
        )
        opened = time.perf_counter() - started
        cold, _ = video(pipeline, case.request, case.folder)
        measures: dict[str, list[float]] = defaultdict(list)
        measures |= {
            "cold_open_s": [opened],
            "cold_load_s": cold["load_s"],
            "cold_video_s": cold["video_s"],
        }
        frames = None
        for _ in range(case.runs):
            found, frames = video(pipeline, case.request, case.folder)
            for name, values in found.items():
                measures[name] += values
    assert frames is not None  # there is at least one run
    np.save(case.kept, frames)
    measures["peak_mib"] = [peak_mib()]
    if taken is not None:
        measures["device_mib"] = [most - taken for most in measures["device_mib"]]
    facts = {
        "placement": {
            stage: f"{placed.backend}, {100 * placed.share:.0f} % of the nodes"
            for stage, placed in pipeline.placements.items()
        },
        "seed": SEED,
        "bundle_sha256": pipeline.bundle.digest,
    }
    return Row(case.name, {name: tuple(values) for name, values in measures.items()}, facts)


def video(
    pipeline: TextToVideo, request: Request, folder: Path
) -> tuple[dict[str, list[float]], np.ndarray]:
    """Make one video and its file; returns the seconds of its parts, and its frames."""
    started = before = time.perf_counter()
    post_s, made, device = 0.0, None, list[float]()
    for progress in pipeline.generate(request):
        device += filter(None, [device_memory_mib()])
        now = time.perf_counter()
        if progress.video is not None:
            post_s, made = now - before, progress.video
        before = now
    assert made is not None  # the generator ends with a video
    encoding = time.perf_counter()
    made.save(folder / "video.mp4")
    ended = time.perf_counter()
    timings = made.timings
    found = {
        "load_s": [sum(timings.load_s.values())],
        "text_encoder_s": [timings.text_encoder_s],
        "unet_step_s": list(timings.unet_step_s),
        "unet_s": [sum(timings.unet_step_s)],
        "decoder_s": [timings.vae_decoder_s],
        "computing_s": [timings.total_s - sum(timings.load_s.values())],
        "post_s": [post_s],
        "encode_s": [ended - encoding],
        "video_s": [ended - started],
        "fps": [request.frames / (ended - started)],
    }
    if device:
        found["device_mib"] = [max(device)]
    parts = sum(found[name][0] for name in PARTS)
    return {**found, "elsewhere_s": [ended - started - parts]}, made.frames


def limit_threads(count: int) -> None:
    """Bind this process to its first `count` cores, so that every engine uses as many threads."""
    process = psutil.Process()
    process.cpu_affinity((process.cpu_affinity() or [])[:count])


def set_caches(folder: str) -> None:
    """Let this process find nothing that was compiled before; raises DeviceError."""
    os.environ.update(dict.fromkeys(CACHES, folder))
    if not user_cache_path("hummingbird-edge").is_relative_to(folder):
        raise DeviceError("this system's folder for caches cannot be moved: nothing would be cold")


def with_agreement(rows: list[Row], known: dict[str, Case]) -> list[Row]:
    """Add to each row how near its frames are to those in the most precise numbers of its shape."""
    from hummingbird_edge.quantize.quality import compare

    exact: dict[str, Case] = {}
    for row in rows:
        case = known[row.name]
        if not row.failure:
            best = exact.get(case.shape, case)
            nearer = _ORDER.index(case.label) < _ORDER.index(best.label)
            exact[case.shape] = case if nearer else best
    found = []
    for row in rows:
        case = known[row.name]
        if not row.failure and exact[case.shape] != case:
            truth, frames = np.load(exact[case.shape].kept), np.load(case.kept)
            db = compare([frames], [truth]).median_db
            row = replace(
                row,
                measures={**row.measures, "agreement_db": (round(db, 1),)},
                facts={**row.facts, "held_to": exact[case.shape].name},
            )
        found.append(row)
    return found
