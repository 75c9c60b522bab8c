"""Measure whole commands as a new user runs them: seconds and peak memory.

    python benchmarks/first_use.py                      help and a built-in video
    python benchmarks/first_use.py --full-size FOLDER   also a full-size export, 3 minutes a run
    python benchmarks/first_use.py --laptop FOLDER      also a checkpoint of the published form and
                                                        size, 4.8 GB of random weights, to the
                                                        default bundle, and its first whole video
    python benchmarks/first_use.py --prune FOLDER       also VideoCrafter2 pruned to 0.7b, 5 minutes

A command runs in a process of its own with an empty cache; its time is that of the process from
start to end. Peak memory is the largest sum of the resident sets of its processes, mapped weights
included, in samples every 100 ms. A command that fails is a row with the last line of its output.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
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
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.files import CACHE_VARIABLE, atomic_path

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
"""Writes a checkpoint with VideoCrafter2's names and shapes and random weights, 7.4 GB."""

RANDOM_CHECKPOINT = """
import sys, torch
from torch import nn
from hummingbird_edge.export.models.config import PRESETS
from hummingbird_edge.export.stage import PREFIXES, network
whole = nn.Module()
for name, prefix in PREFIXES.items():
    parent, (*path, last) = whole, prefix.rstrip(".").split(".")
    for part in path:
        if not hasattr(parent, part):
            parent.add_module(part, nn.Module())
        parent = getattr(parent, part)
    parent.add_module(last, network(name, PRESETS["hummingbird-0.7b"]))
torch.save(whole, sys.argv[1])
"""
"""Writes a whole-module pickle as AMD's, with random weights, 4.8 GB."""

_SAMPLE_INTERVAL_S = 0.1

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Command:
    """One command line."""

    name: str
    program: str
    arguments: tuple[str, ...]


def measure(command: Command, runs: int) -> Row:
    """Run a command `runs` times; the first failure ends the row."""
    seconds, peak = list[float](), 0
    for _ in range(runs):
        run_s, peak_bytes, failure = run(command)
        if failure:
            return Row(command.name, failure=failure)
        seconds.append(run_s)
        peak = max(peak, peak_bytes)
    return Row(command.name, {"run_s": tuple(seconds), "peak_mib": (peak / 2**20,)})


def run(command: Command) -> tuple[float, int, str]:
    """Run a command with an empty cache; return its seconds, peak bytes and reason of failure."""
    line, peak = [sys.executable, "-c", command.program, *command.arguments], 0
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {CACHE_VARIABLE: cache}
        started = time.perf_counter()
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SAMPLE_INTERVAL_S)
        seconds = time.perf_counter() - started
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    failure = ("".join(last) or f"exit {process.returncode}") if process.returncode else ""
    return seconds, peak, failure


def resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process and of those it started; 0 where it has ended."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += each.memory_info().rss
    return total


def first_commands(folder: Path) -> Iterator[Command]:
    """Yield the help and the README's first video."""
    video = str(folder / "out.mp4")
    yield Command("hb-run --help", RUN, ("--help",))
    yield Command("built-in video, cold", RUN, ("a penguin waddling in the snow", "-o", video))


def export(folder: Path) -> Command:
    """Return the export of the published size with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (
        "build",
        "--random-weights",
        "--preset",
        "hummingbird-0.7b",
        "--precision",
        "fp32",
        "--force",
    )
    return Command("export hummingbird-0.7b", EXPORT, (*arguments, str(folder / "first-use")))


def laptop(folder: Path) -> Iterator[Command]:
    """Yield the default build of a checkpoint as AMD's, and the bundle's first video."""
    checkpoint = written(folder / "hummingbird-0.7b-random.pt", RANDOM_CHECKPOINT)
    bundle, video = str(folder / "laptop"), str(folder / "laptop.mp4")
    yield Command("default build", EXPORT, ("build", "--force", str(checkpoint), bundle))
    yield Command("its first video", RUN, ("a cat DJ at a party", "--bundle", bundle, "-o", video))


def written(path: Path, program: str) -> Path:
    """Return `path`, a file that `program` writes where there is none yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with atomic_path(path) as partial:
            if subprocess.run([sys.executable, "-c", program, str(partial)]).returncode:
                raise HummingbirdError(f"{path} could not be written, see above: fix that")
    return path


def pruning(folder: Path) -> Command:
    """Return the pruning of VideoCrafter2; write the random teacher that it reads."""
    teacher = written(folder / "videocrafter2-random.safetensors", RANDOM_TEACHER)
    arguments = ("prune", str(folder), "--teacher", str(teacher), "--preset", "hummingbird-0.7b")
    return Command("prune VideoCrafter2 to hummingbird-0.7b", DISTILL, arguments)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        run = row["run_s"]
        spread = f"{run.range:.2f}" if run.count > 1 else "one run"
        return [f"{run.median:.2f}", spread, str(run.count), f"{row.median('peak_mib'):,.0f}"]

    return row_table(["median, s", "spread, s", "runs", "peak MiB"], rows, cells)


def measure_commands(
    writer: ResultsWriter,
    full_size: Path | None,
    on_laptop: Path | None,
    prune: Path | None,
    runs: int,
) -> None:
    """Measure the first commands, and those of the folders that are given."""
    with tempfile.TemporaryDirectory() as folder:
        for command in first_commands(Path(folder)):
            writer.add(measure(command, runs))
    if full_size is not None:
        writer.add(measure(export(full_size), runs))
    for command in laptop(on_laptop) if on_laptop is not None else ():
        writer.add(measure(command, runs))
    if prune is not None:
        writer.add(measure(pruning(prune), runs))


@app.command()
def main(
    full_size: Annotated[
        Path | None, typer.Option(help="A folder for a full-size bundle, 4.6 GB.")
    ] = None,
    on_laptop: Annotated[
        Path | None,
        typer.Option("--laptop", help="A folder for a checkpoint and the default bundle, 13 GB."),
    ] = None,
    prune: Annotated[
        Path | None, typer.Option(help="A folder for a teacher to prune, 11 GB.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of every command.")] = 3,
    output: Output = Path("first_use.json"),
) -> None:
    """Measure whole commands as a new user runs them."""
    require_modules("benchmark", "matplotlib")
    if full_size is not None or on_laptop is not None:
        require_modules("export", "torch", "onnx", "onnxscript")
    if prune is not None:
        require_modules("distill", "torch", "safetensors", "accelerate")
    require_output(output)
    writer = ResultsWriter("first_use", Bundle.open(BUILTIN), output)
    measure_commands(writer, full_size, on_laptop, prune, runs)
    rows = writer.rows
    writer.publish(
        rows, table(rows), lambda axes: stacked_bars(axes, rows, ["run_s"], [""], "seconds")
    )


if __name__ == "__main__":
    run_command(app, "first_use.py", PARTIAL_RESULTS)
