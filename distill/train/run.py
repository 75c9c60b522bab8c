"""A stage of a training run on disk: a JSON log, and a checkpoint from which it resumes."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hummingbird_edge.runtime.errors import CheckpointError, OutputError
from hummingbird_edge.runtime.files import atomic_path

__all__ = ["Run", "load_finished"]


@dataclass
class Run:
    """One stage of a run in a folder: `STAGE.jsonl` (the log) and `STAGE.pt` (the checkpoint)."""

    folder: Path
    stage: str
    is_main: bool = True
    """Whether this process writes; the others of a multi-process run only read."""
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint_path(self) -> Path:
        """Where the newest checkpoint lies."""
        return self.folder / f"{self.stage}.pt"

    @property
    def log_path(self) -> Path:
        """Where the log lies, one JSON object a line."""
        return self.folder / f"{self.stage}.jsonl"

    def log(self, **entries: float | int | str) -> None:
        """Append one JSON line, with the seconds since this process started, and print it."""
        if not self.is_main:
            return
        line = json.dumps({"seconds": round(time.monotonic() - self.started, 1), **entries})
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(f"{self.stage} {line}", flush=True)

    def entries(self) -> list[dict[str, Any]]:
        """Return what was logged, oldest first."""
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text("utf-8").splitlines()
        # A line that a full disk cut short is left out.
        return [json.loads(line) for line in lines if line.endswith("}")]

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint at once, or leave the old one; raises OutputError."""
        if not self.is_main:
            return
        try:
            with atomic_path(self.checkpoint_path) as partial:
                torch.save(dict(state), partial)
        except (OSError, RuntimeError) as error:  # PyTorch's writer turns a full disk into the 2nd
            raise OutputError(
                f"{self.checkpoint_path} cannot be written ({str(error).splitlines()[0]}): make "
                f"room and run the same command again: it resumes from the last checkpoint"
            ) from error

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, or None where the stage is new; raises CheckpointError."""
        if not self.checkpoint_path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(
                self.checkpoint_path, map_location="cpu", weights_only=True
            )
        except Exception as error:  # a truncated or foreign file fails in many ways
            raise CheckpointError(
                f"{self.checkpoint_path} is no checkpoint of a run "
                f"({type(error).__name__}): delete it to start {self.stage} again from nothing"
            ) from error
        return state


def load_finished(run: Run, state: Mapping[str, Any], module: nn.Module) -> None:
    """Load a stage's averaged weights into `module`.

    Raises CheckpointError where the stage stopped early or made a model of another shape.
    """
    if state.get("step") != state.get("steps", state.get("step")):
        raise CheckpointError(
            f"{run.folder} has trained {run.stage} for {state['step']} of {state['steps']} steps: "
            f"run hb-distill {run.stage} {run.folder} again to finish it"
        )
    try:
        module.load_state_dict(state["average"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{run.checkpoint_path} was made by a model of another shape "
            f"({str(error).splitlines()[0]}): choose another folder, or delete the file"
        ) from error
