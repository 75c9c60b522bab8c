"""A training run: a folder with a JSON log and a checkpoint from which it goes on."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["Average", "Run", "cosine_rate"]


def cosine_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Return the learning rate of `step`: a linear warm-up, then half a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Average:
    """An exponential moving average of a module's parameters."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.state = {name: p.detach().clone() for name, p in module.state_dict().items()}

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module`; early steps count more, so that the start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in module.state_dict().items():
                self.state[name].lerp_(value, 1 - decay)


@dataclass
class Run:
    """The folder of a run, `RUN/STAGE.jsonl` (the log) and `RUN/STAGE.pt` (the checkpoint)."""

    folder: Path
    stage: str
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint_path(self) -> Path:
        """Where the newest checkpoint lies."""
        return self.folder / f"{self.stage}.pt"

    def log(self, **entries: float | int | str) -> None:
        """Append one JSON line, with the seconds since this process started, and print it."""
        line = json.dumps({"seconds": round(time.monotonic() - self.started, 1), **entries})
        with (self.folder / f"{self.stage}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint beside the old one, then replace it."""
        partial = self.checkpoint_path.with_suffix(".partial")
        torch.save(dict(state), partial)
        partial.replace(self.checkpoint_path)

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, or None where the run is new."""
        if not self.checkpoint_path.exists():
            return None
        state: dict[str, Any] = torch.load(self.checkpoint_path, weights_only=True)
        return state
