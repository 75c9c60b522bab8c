"""What each stage costs in each engine, against our own modules in PyTorch eager float32.

    python benchmarks/stages.py FOLDER                      full size, about 20 minutes on two cores
    python benchmarks/stages.py FOLDER --bundle BUNDLE --frames 8 --size 64x64
    python benchmarks/stages.py FOLDER --bundle INT8 --precision int8      after hb-export quantize

Without --bundle, hummingbird-0.7b with random weights is exported into FOLDER first, with a tiny
decoder of random weights, and kept for the next time. Every row is a process of its own, so that
its peak memory is its own; the rows of a stage follow each other in one run. Prints a Markdown
table: median and spread of the time, ratio to PyTorch, peak memory. `--output` writes JSON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from hummingbird_edge.benchmarks.machine import peak_mib
from hummingbird_edge.benchmarks.subject import random_full_size
from hummingbird_edge.runtime.bundle import Bundle
from hummingbird_edge.runtime.request import Request

PYTORCH, WHOLE = "pytorch", "whole video"
RUNS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One stage in one engine."""

    stage: str
    engine: str
    precision: str
    seconds: tuple[float, ...]
    """Of one U-Net step, one frame of the decoder, one text."""
    load_s: float
    peak_mib: float
    failure: str = ""

    @property
    def median_s(self) -> float:
        """The median of the runs."""
        return statistics.median(self.seconds)


def child(arguments: argparse.Namespace) -> None:
    """Measure one row in this process and print it as JSON."""
    from hummingbird_edge.runtime.text_to_video import TextToVideo

    bundle = Bundle.open(arguments.bundle)
    stage, engine, precision = arguments.child
    if stage == WHOLE:
        seconds = whole_pytorch(bundle, request_of(bundle, arguments, stage))
        print(json.dumps(asdict(Row(stage, engine, precision, seconds, 0.0, peak_mib()))))
        return
    sizes = TextToVideo(bundle, "cpu").stage_sizes(request_of(bundle, arguments, stage))[stage]
    if engine == PYTORCH:
        load_s, seconds = time_pytorch(bundle, stage, sizes, RUNS)
    else:
        load_s, seconds = time_runtime(bundle, stage, engine, precision, sizes, RUNS)
    per = sizes["frames"] if stage.endswith("decoder") else 1
    row = Row(stage, engine, precision, tuple(s / per for s in seconds), load_s, peak_mib())
    print(json.dumps(asdict(row)))


def request_of(bundle: Bundle, arguments: argparse.Namespace, stage: str) -> Request:
    """Return the request whose shapes are measured."""
    from hummingbird_edge.runtime.request import parse_size

    width, height = parse_size(arguments.size)
    decoder = "tiny" if stage == "tiny_decoder" else "full"
    asked = {"frames": arguments.frames, "width": width, "height": height}
    return Request.for_model(bundle.manifest, "a cat", 0, decoder, **asked)


def time_runtime(
    bundle: Bundle, stage: str, engine: str, precision: str, sizes: dict[str, int], runs: int
) -> tuple[float, tuple[float, ...]]:
    """Time a stage as `hb-run` runs it."""
    from hummingbird_edge.runtime.compiled import compiled_folder
    from hummingbird_edge.runtime.device import Device
    from hummingbird_edge.runtime.placement import Option
    from hummingbird_edge.runtime.trial import run_trial

    option = Option(Device.parse(engine), precision)
    cache = compiled_folder(bundle.digest)
    trial = run_trial(bundle, stage, option, sizes, cache, runs, enough_s=1e9)
    return trial.load_s, trial.seconds


def time_pytorch(
    bundle: Bundle, stage: str, sizes: dict[str, int], runs: int, warm_up: int = 1
) -> tuple[float, tuple[float, ...]]:
    """Time the same stage's module, random weights, eager float32."""
    import torch

    from hummingbird_edge.export.models.config import ModelConfig
    from hummingbird_edge.export.stage import STAGES
    from hummingbird_edge.export.weights import RandomWeights
    from hummingbird_edge.runtime.trial import example_inputs

    started = time.perf_counter()
    config = ModelConfig.from_dict(bundle.manifest.provenance["config"])
    known = STAGES[stage]
    module = known.module(RandomWeights().load(known.network, config)).eval()
    load_s = time.perf_counter() - started
    arrays = example_inputs(bundle.manifest.model, stage, sizes)
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if config.unet.guidance_width is None:
        inputs.pop("timestep_cond", None)
    seconds = []
    with torch.inference_mode():
        for _ in range(warm_up + runs):
            started = time.perf_counter()
            module(**inputs)
            seconds.append(time.perf_counter() - started)
    return load_s, tuple(seconds[warm_up:])


def whole_pytorch(bundle: Bundle, request: Request) -> tuple[float, ...]:
    """Time one video's text, U-Net steps and frames in PyTorch, nothing repeated, loading apart."""
    from hummingbird_edge.runtime.text_to_video import TextToVideo

    total = 0.0
    for stage, sizes in TextToVideo(bundle, "cpu").stage_sizes(request).items():
        runs = {"text_encoder": 1, "unet": request.steps}.get(
            stage, -(-request.frames // sizes.get("frames", 1))
        )
        total += sum(time_pytorch(bundle, stage, sizes, runs, warm_up=0)[1])
    return (total,)


def measure(arguments: argparse.Namespace, stage: str, engine: str, precision: str) -> Row:
    """Run one row in a process of its own; one that fails is a row with its reason."""
    command = [sys.executable, __file__, str(arguments.folder), "--bundle", str(arguments.bundle)]
    command += ["--child", stage, engine, precision]
    for name in ("frames", "size"):
        if (value := getattr(arguments, name)) is not None:
            command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return Row(stage, engine, precision, (float("nan"),), 0.0, 0.0, last[:160])
    entry = json.loads(done.stdout.splitlines()[-1])
    return Row(**{**entry, "seconds": tuple(entry["seconds"])})


def ways(stage: str, graphs: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield PyTorch, then every engine that works here with every precision of these graphs."""
    from hummingbird_edge.runtime.device import Device
    from hummingbird_edge.runtime.placement import precisions_of
    from hummingbird_edge.runtime.probe import known_devices, probe

    yield PYTORCH, "fp32"
    for name in known_devices():
        if probe(name).works:
            for precision in precisions_of(stage, Device.parse(name), graphs):
                if stage != "text_encoder" or precision in ("fp32", "int8"):
                    yield name, precision


def whole_command(arguments: argparse.Namespace, home: str) -> dict[str, object]:
    """Run `hb-run` once, caches under `home`; returns its JSON and the process's peak memory."""
    out = arguments.folder / "stages.mp4"
    program = "from hummingbird_edge.runtime.cli import main; main()"
    command = [sys.executable, "-c", program, "a cat", "-o", str(out), "--json"]
    command += ["--bundle", str(arguments.bundle), "--decoder", arguments.decoder]
    for name in ("frames", "size", "precision"):
        if (value := getattr(arguments, name)) is not None:
            command += [f"--{name}", str(value)]
    started, peak = time.perf_counter(), 0
    # Where platformdirs looks for a user's cache, on Linux and on Windows.
    environment = {**os.environ, "XDG_CACHE_HOME": home, "LOCALAPPDATA": home}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        while process.poll() is None:
            try:
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.02)
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"hb-run failed with {process.returncode}")
    wall_s = time.perf_counter() - started
    return {**json.loads(text), "wall_s": wall_s, "peak_mib": round(peak / 2**20, 1)}


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, each against PyTorch's row of its stage."""
    lines = ["| stage | engine | median | spread | faster than PyTorch | load | peak MiB |"]
    lines += ["|---|---|---|---|---|---|---|"]
    base = {row.stage: row.median_s for row in rows if row.engine == PYTORCH}
    for row in rows:
        title = f"| {row.stage} | {row.engine} {row.precision} |"
        if row.failure:
            lines.append(f"{title} {row.failure} | | | | |")
            continue
        spread = max(row.seconds) - min(row.seconds)
        ratio = base[row.stage] / row.median_s
        lines.append(
            f"{title} {row.median_s:.3f} s | {spread:.3f} s | {ratio:.2f}x | {row.load_s:.1f} s "
            f"| {row.peak_mib:,.0f} |"
        )
    full = base.get("vae_decoder")
    tiny = [row for row in rows if row.stage == "tiny_decoder" and not row.failure]
    if full is not None:
        lines += [
            f"\nA frame of tiny_decoder {row.engine} {row.precision}: {full / row.median_s:.0f}x "
            f"vae_decoder {PYTORCH}"
            for row in tiny
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the full-size bundle is kept")
    parser.add_argument("--bundle", type=Path, help="a bundle, not the full-size one")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size")
    parser.add_argument("--stages", default="text_encoder,unet,vae_decoder,tiny_decoder")
    parser.add_argument("--precision", help="of the whole hb-run, as its --precision")
    parser.add_argument("--decoder", default="full", help="of the whole hb-run, full or tiny")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    arguments.bundle = arguments.bundle or random_full_size(arguments.folder)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    has = Bundle.open(arguments.bundle).manifest
    rows = []
    for stage in arguments.stages.split(","):
        if stage in has.stages:
            for engine, precision in ways(stage, has.precisions(stage)):
                rows.append(measure(arguments, stage, engine, precision))
                print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    eager = measure(arguments, WHOLE, PYTORCH, "fp32")
    print(f"\nPyTorch, the whole video: {eager.median_s:.1f} s computing")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as home:
        whole = [whole_command(arguments, home) for _ in range(2)]
    for title, entry in zip(("first run", "second run"), whole, strict=True):
        timings = entry["timings"]
        assert isinstance(timings, dict)
        load_s = sum(timings["load_s"].values())
        print(
            f"\nhb-run, {title}: {entry['wall_s']:.1f} s in all, load and compile {load_s:.1f} s, "
            f"computing {timings['total_s'] - load_s:.1f} s "
            f"({eager.median_s / (timings['total_s'] - load_s):.2f}x faster than PyTorch), "
            f"peak {entry['peak_mib']:,.0f} MiB"
        )
    if arguments.output is not None:
        facts = {
            "machine": {"cpu": platform.processor(), "cores": os.cpu_count()},
            "packages": {n: version(n) for n in ("torch", "onnxruntime", "openvino", "numpy")},
            "bundle": str(arguments.bundle.name),
            "rows": [asdict(row) for row in rows],
            "whole_pytorch": asdict(eager),
            "hb_run": whole,
        }
        arguments.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
