"""One training loop for every stage, on one process or many.

A stage is a module whose forward pass draws its own batch and returns its losses, so that
`accelerate launch` can wrap it: each process draws other clips, and the backward pass averages
the gradients. Randomness is a function of seed, step and process alone: a resumed run draws the
same batches as one that was never stopped.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from hummingbird_edge.distill.train.processes import (
    device,
    is_first,
    needs_all_processes,
    require_same_step,
)
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.runtime.errors import CheckpointError, GenerationError

__all__ = ["Average", "Plan", "Stage", "cosine_rate", "fit"]

Trained = TypeVar("Trained", bound=nn.Module)


class Stage(nn.Module, Generic[Trained]):
    """What `fit` trains: a module whose forward pass is the loss of a batch it draws."""

    trained: Trained
    """The part that is optimized, averaged and saved; the rest is frozen."""

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Draw a batch by `generator` and return scalar losses; `loss` is the one minimized."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast a stage trains."""

    steps: int
    """Optimizer steps in all, those of earlier sessions included."""
    batch: int
    """Clips (or images) a step and process."""
    peak_rate: float
    """Learning rate at its peak."""
    decay: float = 0.999
    """Of the exponential moving average of the weights."""
    weight_decay: float = 0.01
    log_every: int = 100
    save_every: int = 500
    """Steps between checkpoints, each with a measurement."""


def cosine_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Return the learning rate of `step`: a linear warm-up, then half a cosine down to zero."""
    warmup = min(warmup, steps // 4)
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


@needs_all_processes()
def fit(
    run: Run,
    stage: Stage[Any],
    plan: Plan,
    seed: int,
    measure: Callable[[Mapping[str, torch.Tensor]], Mapping[str, float]] | None = None,
) -> dict[str, torch.Tensor]:
    """Train until `plan.steps`, resuming from the stage's checkpoint; return averaged weights.

    `measure` takes the averaged weights at each checkpoint and returns figures for the log. Raises
    CheckpointError where the checkpoint is of another shape or not that of all processes,
    GenerationError where the loss is no longer a number or another process is lost.
    """
    # Stages choose their own precision: an outer autocast would cache weights without gradients.
    accelerator = Accelerator(mixed_precision="no", cpu=device().type == "cpu")
    run.is_main = is_first()
    trained = stage.trained
    weights = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, plan.peak_rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay
    )
    stage.to(accelerator.device)
    average, done = Average(trained, plan.decay), 0
    if (state := run.load()) is not None:
        done = _restore(run, state, trained, optimizer, average)
    require_same_step(run.stage, done)
    wrapped, optimizer = accelerator.prepare(stage, optimizer)
    if done < plan.steps:
        run.log(step=done, seed=seed, steps=plan.steps, batch=plan.batch, rate=plan.peak_rate)
    totals: dict[str, float] = {}
    for step in range(done, plan.steps):
        generator = generator_of(seed, step, accelerator.process_index)
        losses = _step(accelerator, wrapped, optimizer, plan, step, generator)
        if losses is None:
            raise GenerationError(
                f"{run.stage}: the gradient of step {step} is no longer a number: resume from the "
                f"last checkpoint with another --seed"
            )
        average.update(trained, step)
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + float(value.detach())
        count, is_last = (step % plan.log_every) + 1, step + 1 == plan.steps
        if count == plan.log_every or is_last:
            span = min(count, step + 1 - done)
            run.log(step=step + 1, **{name: round(x / span, 5) for name, x in totals.items()})
            totals = {}
        if (step + 1) % plan.save_every == 0 or is_last:
            _save(run, trained, optimizer, average, step + 1, plan, seed)
            if measure is not None and run.is_main:
                run.log(step=step + 1, **measure(average.state))
            accelerator.wait_for_everyone()
    return average.state


def _step(
    accelerator: Accelerator,
    stage: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    step: int,
    generator: torch.Generator,
) -> Mapping[str, torch.Tensor] | None:
    """Take one optimizer step and return its losses, or None where the gradient is no number."""
    for group in optimizer.param_groups:
        group["lr"] = cosine_rate(step, plan.steps, plan.peak_rate)
    losses: Mapping[str, torch.Tensor] = stage(step, generator)
    optimizer.zero_grad()
    accelerator.backward(losses["loss"])
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    if not math.isfinite(float(accelerator.clip_grad_norm_(weights, 1.0))):
        return None
    optimizer.step()
    return losses


def _save(
    run: Run,
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    step: int,
    plan: Plan,
    seed: int,
) -> None:
    """Write the checkpoint from which `_restore` resumes."""
    run.save(
        {
            "model": trained.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state,
            "step": step,
            "steps": plan.steps,
            "seed": seed,
        }
    )


def generator_of(seed: int, step: int, process: int) -> torch.Generator:
    """Return the generator of one step of one process."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 1_009 + process) % 2**63)


def _restore(
    run: Run,
    state: Mapping[str, object],
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
) -> int:
    try:
        trained.load_state_dict(state["model"])  # type: ignore[arg-type]
        optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        device = next(trained.parameters()).device
        average.state = {name: x.to(device) for name, x in state["average"].items()}  # type: ignore[attr-defined]
        return int(state["step"])  # type: ignore[call-overload]
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{run.checkpoint_path} was made by a model of another shape "
            f"({str(error).splitlines()[0]}): choose another folder, or delete the file"
        ) from error
