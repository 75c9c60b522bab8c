"""What a newcomer waits for and what it costs in memory: whole commands, each a process of its own.

    python benchmarks/first_use.py                      help and a built-in video
    python benchmarks/first_use.py --full-size FOLDER   and a full-size export and its videos
    python benchmarks/first_use.py --prune FOLDER       and VideoCrafter2's layout pruned to 0.7b

Prints a Markdown table: median and spread of the wall time, largest peak memory (resident set,
mapped weights included). `--output` writes the same as JSON with the machine it ran on.
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
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

RUN = "from hummingbird_edge.runtime.cli import main; main()"
EXPORT = "from hummingbird_edge.export.cli import main; main()"
DISTILL = "from hummingbird_edge.distill.cli import main; main()"
RANDOM_TEACHER = """
import sys, torch
from safetensors.torch import save_file
from hummingbird_edge.export.models.config import PRESETS
from hummingbird_edge.export.stage import PREFIXES, network
config, tensors = PRESETS["videocrafter2"], {}
for name, prefix in PREFIXES.items():
    for key, tensor in network(name, config).state_dict().items():
        tensors[prefix + key] = tensor.contiguous()
save_file(tensors, sys.argv[1])
"""
"""A checkpoint of VideoCrafter2's names and shapes with random weights, 7.4 GB."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took, over all its runs."""

    title: str
    seconds: tuple[float, ...]
    peak_mib: float

    def row(self) -> str:
        """Return a row of the table."""
        median, spread = statistics.median(self.seconds), max(self.seconds) - min(self.seconds)
        runs = len(self.seconds)
        return f"| {self.title} | {median:.2f} s | {spread:.2f} s | {runs} | {self.peak_mib:,.0f} |"


def measure(title: str, program: str, arguments: list[str], runs: int) -> Cost:
    """Run a command `runs` times; raises CalledProcessError where it fails."""
    seconds, peak = [], 0
    for _ in range(runs):
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(0.02)
        seconds.append(time.perf_counter() - started)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, arguments)
    return Cost(title, tuple(round(s, 3) for s in seconds), round(peak / 2**20, 1))


def resident_bytes(pid: int) -> int:
    """Return the largest resident set so far of a process that may have just ended."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    # Windows keeps the peak itself; elsewhere the largest sample stands for it.
    return int(getattr(memory, "peak_wset", memory.rss))


def newcomer(folder: Path, runs: int) -> list[Cost]:
    """Measure the README's first command."""
    video = str(folder / "out.mp4")
    return [
        measure("hb-run --help", RUN, ["--help"], runs),
        measure("built-in video, cold", RUN, ["a red circle moving right", "-o", video], runs),
    ]


def full_size(folder: Path, device: str) -> list[Cost]:
    """Measure the published size with random weights, once each: these take minutes."""
    bundle = str(folder / "hummingbird-0.7b-random")
    build = ["build", "--random-weights", "--preset", "hummingbird-0.7b", "--force", bundle]
    costs = [measure("export hummingbird-0.7b", EXPORT, build, 1)]
    for frames in (16, 26):
        video = str(folder / f"{frames}.mp4")
        arguments = ["a cat DJ at a party", "--bundle", bundle, "--frames", str(frames)]
        title = f"{frames} frames, 512x320, 4 steps, {device}"
        costs.append(measure(title, RUN, [*arguments, "--device", device, "-o", video], 1))
    return costs


def pruning(folder: Path) -> list[Cost]:
    """Measure how VideoCrafter2's layout is pruned, once."""
    teacher = folder / "videocrafter2-random.safetensors"
    if not teacher.exists():
        subprocess.run([sys.executable, "-c", RANDOM_TEACHER, str(teacher)], check=True)
    arguments = ["prune", str(folder), "--teacher", str(teacher), "--preset", "hummingbird-0.7b"]
    return [measure("prune VideoCrafter2 to hummingbird-0.7b", DISTILL, arguments, 1)]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of the short commands")
    parser.add_argument("--full-size", type=Path, help="folder for a full-size bundle (4.6 GB)")
    parser.add_argument("--prune", type=Path, help="folder for a teacher to prune (11 GB)")
    parser.add_argument("--device", default="cpu", help="device of the full-size videos")
    parser.add_argument("--output", type=Path, help="write JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        costs = newcomer(Path(name), options.runs)
    if options.full_size is not None:
        options.full_size.mkdir(parents=True, exist_ok=True)
        costs += full_size(options.full_size, options.device)
    if options.prune is not None:
        options.prune.mkdir(parents=True, exist_ok=True)
        costs += pruning(options.prune)
    print("| command | median | spread | runs | peak MiB |\n|---|---|---|---|---|")
    print("\n".join(cost.row() for cost in costs))
    if options.output is not None:
        entries = {
            "costs": [asdict(cost) for cost in costs],
            "machine": {
                "cpu": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
                "system": platform.platform(),
                "python": platform.python_version(),
            },
            "packages": {name: version(name) for name in ("hummingbird-edge", "onnxruntime")},
        }
        options.output.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
