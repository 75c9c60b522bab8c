"""Compare `hb-run --prompts FILE` with as many `hb-run` commands, one after another.

    python benchmarks/prompts.py                        ten prompts, the built-in model
    python benchmarks/prompts.py --bundle FOLDER --prompts 4 --device openvino

Both make the same videos from the same seed, with a cache that one video before has filled, and
take turns. A row's seconds are those of all its videos, from the first process's start to the last
one's end. Files that are not the same, byte for byte, are a row that says so.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hummingbird_edge.benchmarks.first_use import RUN
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
from hummingbird_edge.runtime.files import CACHE_VARIABLE, STATE_VARIABLE

NOUNS, PATHS = ("cat", "penguin", "bus", "rocket"), ("left", "right", "up", "down")
SEPARATE, TOGETHER = "one command each", "hb-run --prompts"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Contest:
    """The videos to be made, and where."""

    folder: Path
    prompts: Sequence[str]
    options: tuple[str, ...]

    def separate(self) -> float:
        """Make the videos by a command each; returns the seconds."""
        started = time.perf_counter()
        for number, prompt in enumerate(self.prompts, start=1):
            self._run(prompt, "-o", f"separate-{number:03d}.mp4")
        return time.perf_counter() - started

    def together(self) -> float:
        """Make the videos by one command; returns the seconds."""
        file = self.folder / "prompts.txt"
        file.write_text("\n".join(self.prompts), encoding="utf-8")
        started = time.perf_counter()
        self._run("--prompts", file.name, "-o", "together.mp4")
        return time.perf_counter() - started

    def differences(self) -> list[str]:
        """Return the videos that are not the same file."""
        names = [f"{number:03d}.mp4" for number in range(1, len(self.prompts) + 1)]
        return [n for n in names if self._read(f"separate-{n}") != self._read(f"together-{n}")]

    def _read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def _run(self, *arguments: str) -> None:
        environment = {
            **os.environ,
            CACHE_VARIABLE: str(self.folder / "cache"),
            STATE_VARIABLE: str(self.folder / "state"),
        }
        command = [sys.executable, "-c", RUN, *arguments, *self.options, "--quiet"]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise HummingbirdError(f"hb-run failed: {done.stderr.strip()}")


def measure(contest: Contest, runs: int) -> tuple[Row, Row]:
    """Return the rows of both ways, measured in turns."""
    contest.together()  # fills the cache
    turns = [(contest.separate(), contest.together()) for _ in range(runs)]
    count = len(contest.prompts)
    metadata = {"videos": count, "options": list(contest.options)}
    separate, together = (
        Row(f"{count} videos, {name}", {"run_s": seconds}, metadata)
        for name, seconds in zip((SEPARATE, TOGETHER), zip(*turns, strict=True), strict=True)
    )
    if different := contest.differences():
        return separate, Row(together.name, failure=f"other files: {', '.join(different)}")
    return separate, together


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, each compared with the first."""

    def cells(row: Row) -> list[str]:
        run, ratio = row["run_s"], rows[0].median("run_s") / row.median("run_s")
        spread = f"{run.range:.2f}" if run.count > 1 else "one run"
        return [f"{run.median:.2f}", spread, str(run.count), f"{ratio:.2f}x"]

    return row_table(["all videos, s", "spread, s", "runs", "speedup"], list(rows), cells)


@app.command()
def main(
    bundle: Annotated[Path | None, typer.Option(help="Default: the built-in model.")] = None,
    device: Annotated[str, typer.Option(help="As hb-run takes it.")] = "auto",
    prompts: Annotated[int, typer.Option(min=2, max=16, help="Videos.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    output: Output = Path("prompts.json"),
) -> None:
    """Compare hb-run --prompts with as many commands, one after another."""
    require_modules("benchmark", "matplotlib")
    require_output(output)
    model = Bundle.open(bundle or BUILTIN)
    texts = [f"a {noun} moving {path}" for noun in NOUNS for path in PATHS]
    options = ("--device", device, *(("--bundle", str(model.folder)) if bundle else ()))
    writer = ResultsWriter("prompts", model, output)
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Contest(Path(folder), texts[:prompts], options), runs):
            writer.add(row)
    rows = writer.rows
    writer.publish(
        rows, table(rows), lambda axes: stacked_bars(axes, rows, ["run_s"], [""], "seconds")
    )


if __name__ == "__main__":
    run_command(app, "prompts.py", PARTIAL_RESULTS)
