"""What a newcomer waits for and what it costs in memory: whole commands, each a process of its own.

    python benchmarks/first_use.py                      help and a built-in video
    python benchmarks/first_use.py --full-size FOLDER   and a full-size export, 3 minutes a run
    python benchmarks/first_use.py --prune FOLDER       and VideoCrafter2's layout pruned to 0.7b, 5

A command's time is that of its process, from start to end; nothing that was compiled before is
found by it. Peak memory is the largest resident set,
mapped weights included: Windows keeps it, elsewhere the largest of samples every 20 ms stands for
it. A command that fails is a row with the last line that it said.
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

from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.options import Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.table import bars, by_row
from hummingbird_edge.benchmarks.lib.video import CACHES
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import HummingbirdError

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


_SAMPLED_S = 0.02

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Command:
    """One command line."""

    name: str
    program: str
    arguments: tuple[str, ...]


def measure(command: Command, runs: int) -> Row:
    """Run a command `runs` times."""
    seconds, peak = list[float](), 0
    line = [sys.executable, "-c", command.program, *command.arguments]
    for _ in range(runs):
        with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as caches:
            found = os.environ | dict.fromkeys(CACHES, caches)
            started = time.perf_counter()
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=said, env=found)
            while process.poll() is None:
                peak = max(peak, resident_bytes(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SAMPLED_S)
            seconds.append(time.perf_counter() - started)
            if process.returncode:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-1:]
                return Row(command.name, failure="".join(last) or f"exit {process.returncode}")
    return Row(command.name, {"run_s": tuple(seconds), "peak_mib": (peak / 2**20,)})


def resident_bytes(pid: int) -> int:
    """Return the largest resident set so far of a process that may have just ended."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "peak_wset", memory.rss))


def newcomer(folder: Path) -> Iterator[Command]:
    """Yield the README's first command, and the one before it."""
    video = str(folder / "out.mp4")
    yield Command("hb-run --help", RUN, ("--help",))
    yield Command("built-in video, cold", RUN, ("a red circle moving right", "-o", video))


def export(folder: Path) -> Command:
    """Return the export of the published size with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = ("build", "--random-weights", "--preset", "hummingbird-0.7b", "--force")
    return Command("export hummingbird-0.7b", EXPORT, (*asked, str(folder / "first-use")))


def pruning(folder: Path) -> Command:
    """Return the pruning of VideoCrafter2's layout; writes the random teacher it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    teacher = folder / "videocrafter2-random.safetensors"
    if not teacher.exists():
        partial = teacher.with_suffix(".partial")
        if subprocess.run([sys.executable, "-c", RANDOM_TEACHER, str(partial)]).returncode:
            raise HummingbirdError(f"{partial} could not be written, see above: mend that")
        partial.replace(teacher)
    asked = ("prune", str(folder), "--teacher", str(teacher), "--preset", "hummingbird-0.7b")
    return Command("prune VideoCrafter2 to hummingbird-0.7b", DISTILL, asked)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""

    def cells(row: Row) -> list[str]:
        run = row["run_s"]
        spread = f"{run.range:.2f}" if run.count > 1 else "one run"
        return [f"{run.median:.2f}", spread, str(run.count), f"{row.median('peak_mib'):,.0f}"]

    return by_row(["median, s", "spread, s", "runs", "peak MiB"], rows, cells)


@app.command()
def main(
    full_size: Annotated[
        Path | None, typer.Option(help="A folder for a full-size bundle, 4.6 GB.")
    ] = None,
    prune: Annotated[
        Path | None, typer.Option(help="A folder for a teacher to prune, 11 GB.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of every command.")] = 3,
    output: Output = Path("first_use.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib")
    if full_size is not None:
        require_modules("export", "torch", "onnx", "onnxscript")
    if prune is not None:
        require_modules("distill", "torch", "safetensors", "accelerate")
    require_output(output)
    ledger = Ledger("first_use", Bundle.open(BUILTIN), output)
    with tempfile.TemporaryDirectory() as folder:
        for command in newcomer(Path(folder)):
            ledger.add(measure(command, runs))
    if full_size is not None:
        ledger.add(measure(export(full_size), runs))
    if prune is not None:
        ledger.add(measure(pruning(prune), runs))
    rows = ledger.rows
    ledger.publish(rows, table(rows), lambda axes: bars(axes, rows, ["run_s"], [""], "seconds"))


if __name__ == "__main__":
    run_command(app, "first_use.py", KEPT)
