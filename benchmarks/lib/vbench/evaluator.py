"""The official evaluator, in an interpreter of its own: its requirements exclude this project's.

It never downloads: a dimension whose weights are not all in the local folder is refused before.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hummingbird_edge.benchmarks.lib.vbench.dimensions import BY_NAME
from hummingbird_edge.benchmarks.lib.vbench.run import Run
from hummingbird_edge.benchmarks.lib.vbench.suite import Sample, official_info
from hummingbird_edge.runtime.errors import DeviceError, RequestError

__all__ = ["Evaluator"]

_PROGRAM = Path(__file__).with_name("official.py")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_MAX_REASON = 160


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Where the official package and its weights are."""

    weights: Path
    """The folder that the package knows as VBENCH_CACHE_DIR."""
    python: str = sys.executable
    """The interpreter that has the package."""

    def missing(self, dimension: str) -> list[str]:
        """Return the weights of a dimension that the folder lacks."""
        needed = BY_NAME[dimension].weights
        return [name for name in needed if not (self.weights / name).exists()]

    def score(self, run: Run, dimension: str, samples: Sequence[Sample]) -> float:
        """Return the official score of these videos, in [0, 1].

        Raises RequestError where weights are missing, DeviceError where the package fails.
        """
        if missing := self.missing(dimension):
            raise RequestError(f"{self.weights} has no {missing[0]}")
        # Elsewhere: from a folder with a vbench.py, Python would import that.
        with tempfile.TemporaryDirectory() as output:
            job = self.job(run, dimension, samples, Path(output))
            self._run(json.dumps(job), output)
            return float(json.loads(Path(job["answer"]).read_text(encoding="utf-8")))

    def job(
        self, run: Run, dimension: str, samples: Sequence[Sample], output: Path
    ) -> dict[str, Any]:
        """Return what `official.py` is told: where the videos are, and where the answer goes."""
        prompts: dict[str, dict[str, str]] = defaultdict(dict)
        for sample in samples:
            path = run.path(sample).resolve()
            prompts[str(path.parent)][path.name] = sample.prompt
        return {
            "dimension": dimension,
            "official": run.is_official,
            "folders": list(prompts),
            "prompts": prompts,
            "info": str(official_info()[0]),
            "output": str(output),
            "answer": str(output / "answer.json"),
        }

    def _run(self, job: str, folder: str) -> None:
        """Run the program on a job; raises DeviceError."""
        environment = os.environ | _OFFLINE | {"VBENCH_CACHE_DIR": str(self.weights.resolve())}
        try:
            done = subprocess.run(
                [self.python, str(_PROGRAM)],
                input=job,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                cwd=folder,
                env=environment,
            )
        except OSError as error:
            raise DeviceError(f"the evaluator {self.python} does not start ({error})") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise DeviceError(f"the official evaluator failed: {lines[-1].strip()[:_MAX_REASON]}")
