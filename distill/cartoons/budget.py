"""Train for a given time: one loop for every stage, on one process or many, resumed on any device.

A stage gets seconds, not steps: its schedule follows the share of them that has passed, so the same
recipe ends in nine minutes of a GPU or in six hours of two cores. Processes of one thread each
average their gradients (`torchrun --nproc-per-node 2`): two threads beside other work are many
times slower than one. On a CPU the seconds are those that the process computed: a machine that is
busy with other work delays a run and does not cut it short.
"""

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from hummingbird_edge.distill.train.processes import needs_all_processes, require_same_step
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.training import Average, Stage, generator_of
from hummingbird_edge.runtime.errors import CheckpointError, GenerationError, RequestError

__all__ = [
    "Schedule",
    "TimedStage",
    "choose_device",
    "fit_budget",
    "is_first",
    "parse_budget",
    "rate_at",
    "set_gradients",
    "share_spent",
    "wait",
]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}

Trained = TypeVar("Trained", bound=nn.Module)


class TimedStage(Stage[Trained]):
    """A stage that knows how much of its time has passed."""

    share: float = 0.0
    """Of the budget, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How fast a stage learns and how often it is kept."""

    peak_rate: float
    """Learning rate at its peak."""
    decay: float = 0.999
    """Of the exponential moving average of the weights."""
    weight_decay: float = 0.0
    warmup: float = 0.02
    """Share of the budget in which the rate rises."""
    save_every_s: float = 60.0
    """Seconds between checkpoints."""
    measure_every: int = 5
    """Checkpoints between measurements."""


def parse_budget(text: str) -> float:
    """Return the seconds of a budget such as 90s, 9m or 10h; raises RequestError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise RequestError(f"--budget {text!r} is no time: give a number with s, m or h, as in 9m")
    return float(match[1]) * UNITS[match[2]]


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; auto takes an accelerator where there is one.

    Joins the other processes where torchrun started some. Raises RequestError.
    """
    kind = name
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise RequestError(f"--device {name}: PyTorch sees no such device here: choose cpu or auto")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if kind == "cpu":
        torch.set_num_threads(1)
    return torch.device(kind)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Tell whether this process writes files."""
    return _rank() == 0


def wait() -> None:
    """Wait until every process has come this far; raises GenerationError where one is lost."""
    if distributed.is_initialized():
        with needs_all_processes():
            distributed.barrier()


def rate_at(share: float, peak: float, warmup: float) -> float:
    """Return the learning rate when `share` of the time has passed: up, then half a cosine down."""
    if share < warmup:
        return peak * max(share / warmup, 0.01)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warmup) / (1 - warmup))))


class Clock:
    """Seconds of the budget that are spent, over all sessions; process 0's are everyone's."""

    def __init__(self, budget_s: float, spent_s: float, device: torch.device) -> None:
        self.budget_s, self.spent_s = budget_s, spent_s
        self.now = time.process_time if device.type == "cpu" else time.monotonic
        self.last = self.now()

    def tick(self) -> None:
        """Count the time since the last tick."""
        now = self.now()
        self.spent_s, self.last = self.spent_s + now - self.last, now

    def skip(self) -> None:
        """Leave the time since the last tick out."""
        self.last = self.now()

    @property
    def share(self) -> float:
        """How much of the budget is spent."""
        return self.spent_s / self.budget_s


@needs_all_processes()
def fit_budget(
    run: Run,
    stage: Stage[Any],
    schedule: Schedule,
    budget_s: float,
    seed: int,
    measure: Callable[[Mapping[str, torch.Tensor]], Mapping[str, float]] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Train until `budget_s` seconds are spent, going on from the checkpoint; return the average.

    `measure` is given the averaged weights now and then and returns figures for the log; `config`
    is kept with the weights, so that they can be read without the recipe. Raises CheckpointError
    where the checkpoint is of another shape or not that of all processes, GenerationError where the
    loss is no longer a number or another process is lost.
    """
    run.is_main = is_first()
    trained: nn.Module = stage.trained
    weights = [p for p in trained.parameters() if p.requires_grad]
    device = weights[0].device
    optimizer = torch.optim.AdamW(
        weights,
        schedule.peak_rate,
        betas=(0.9, 0.99),
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    average, step, spent = Average(trained, schedule.decay), 0, 0.0
    if (state := run.load()) is not None:
        step, spent = _restore(run, state, trained, optimizer, average, budget_s)
    require_same_step(run.stage, step)
    _share_weights(trained)
    clock = Clock(budget_s, spent, device)
    saved, saves, totals, count = time.monotonic(), 0, torch.zeros(0, device=device), 0
    if state is not None and share_spent(state) < 1 <= clock.share:
        # This budget is smaller than the one it was trained by.
        run.log(step=step, share=1.0, spent_s=round(spent, 1), budget_s=budget_s)
        run.save({**state, "spent_s": spent, "budget_s": budget_s})
    if clock.share < 1:
        run.log(step=step, seed=seed, spent_s=round(spent, 1), budget_s=budget_s)
    while clock.share < 1:
        if isinstance(stage, TimedStage):
            stage.share = clock.share
        rate = rate_at(clock.share, schedule.peak_rate, schedule.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = stage(step, generator_of(seed, step, _rank()))
        optimizer.zero_grad()
        losses["loss"].backward()
        _average_gradients(weights, clock)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.update(trained, step)
        step += 1
        values = torch.stack([value.detach().float() for value in losses.values()])
        totals, count = (totals + values if count else values), count + 1
        if time.monotonic() - saved >= schedule.save_every_s or clock.share >= 1:
            means = dict(zip(losses, (totals / count).tolist(), strict=True))
            if not math.isfinite(means["loss"]):
                raise GenerationError(
                    f"{run.stage}: the loss of step {step} is no longer a number: go on from the "
                    f"last checkpoint with another --seed"
                )
            run.log(
                step=step,
                share=round(clock.share, 4),
                rate=rate,
                spent_s=round(clock.spent_s, 1),
                **{name: round(mean, 5) for name, mean in means.items()},
            )
            state = _state(trained, optimizer, average, step, clock)
            run.save({**state, "seed": seed, "config": dict(config or {})})
            saves, count = saves + 1, 0
            if measure is not None and is_first():
                if saves % schedule.measure_every == 0 or clock.share >= 1:
                    run.log(step=step, **measure(average.state))
                clock.skip()  # measuring costs no training time
            saved = time.monotonic()
    return average.state


def share_spent(state: Mapping[str, Any]) -> float:
    """Return how much of its time a stage's checkpoint has had, in [0, 1]."""
    if "budget_s" not in state:  # carried here, and not trained since
        return float(state.get("share", 0.0))
    return min(1.0, state["spent_s"] / state["budget_s"])


def _state(
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    step: int,
    clock: Clock,
) -> dict[str, Any]:
    return {
        "model": trained.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state,
        "step": step,
        "spent_s": clock.spent_s,
        "budget_s": clock.budget_s,
    }


def _share_weights(trained: nn.Module) -> None:
    """Give every process the first one's weights."""
    if distributed.is_initialized():
        for tensor in trained.state_dict().values():
            distributed.broadcast(tensor, 0)


def _average_gradients(weights: list[nn.Parameter], clock: Clock) -> None:
    """Replace gradients by their mean over the processes, and the clock by process 0's."""
    clock.tick()
    if not distributed.is_initialized():
        return
    seconds = weights[0].new_full((1,), clock.spent_s if is_first() else 0.0, dtype=torch.float32)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in weights]
    flat = torch.cat([seconds, *(gradient.flatten() for gradient in gradients)])
    distributed.all_reduce(flat)
    clock.spent_s = float(flat[0])
    flat[1:] /= distributed.get_world_size()
    set_gradients(weights, flat[1:])


def set_gradients(weights: Sequence[nn.Parameter], flat: torch.Tensor) -> None:
    """Give each of `weights` its part of `flat` (all of their numbers, in order) as its gradient.

    In the weight's own layout: the fused optimizer takes all its tensors to have one.
    """
    start = 0
    for weight in weights:
        part = flat[start : start + weight.numel()].view(weight.shape)
        weight.grad = torch.empty_like(weight).copy_(part)
        start += weight.numel()


def _restore(
    run: Run,
    state: Mapping[str, Any],
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    budget_s: float,
) -> tuple[int, float]:
    """Load a checkpoint; returns its step and the seconds of `budget_s` that are spent."""
    try:
        trained.load_state_dict(state["model"])
        if "optimizer" in state:  # what a GPU sends back leaves it out
            for group in state["optimizer"]["param_groups"]:
                group["fused"] = True  # a checkpoint of before may have another form
            optimizer.load_state_dict(state["optimizer"])
        device = next(trained.parameters()).device
        average.state = {name: x.to(device) for name, x in state["average"].items()}
        if "spent_s" in state:
            return int(state["step"]), float(state["spent_s"])
        # Carried weights know a share of whatever budget comes next; finished ones train again.
        share = share_spent(state)
        return int(state["step"]), share * budget_s if share < 1 else 0.0
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{run.checkpoint_path} was made by a model of another shape "
            f"({str(error).splitlines()[0]}): choose another folder, or delete the file"
        ) from error
