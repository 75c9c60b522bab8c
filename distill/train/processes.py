"""The processes of a run: one, or many under `accelerate launch` or `torchrun`."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from accelerate import PartialState
from torch import distributed

from hummingbird_edge.runtime.errors import CheckpointError, GenerationError

__all__ = ["device", "in_turn", "is_first", "needs_all_processes", "require_same_step"]


def _state() -> PartialState:
    """Return accelerate's view of this process, on the CPU where PyTorch has no accelerator."""
    return PartialState(cpu=not torch.accelerator.is_available())


def device() -> torch.device:
    """Return the device of this process: an accelerator where there is one."""
    return torch.device(_state().device)


def is_first() -> bool:
    """Tell whether this process writes files."""
    return bool(_state().is_main_process)


def in_turn() -> AbstractContextManager[None]:
    """Run what follows in the first process, then in the others, which find it done."""
    context: AbstractContextManager[None] = _state().main_process_first()
    return context


def require_same_step(stage: str, step: int) -> None:
    """Raise CheckpointError in every process where they would not all go on from one step.

    They would wait for each other, or average the gradients of different steps.
    """
    if not distributed.is_initialized():
        return
    steps = [0] * distributed.get_world_size()
    distributed.all_gather_object(steps, step)
    for process, other in enumerate(steps):
        if other != steps[0]:
            raise CheckpointError(
                f"process 0 is at step {steps[0]} of {stage}, process {process} at step {other}: "
                f"give all machines the same folder, and start the same command again"
            )


@contextmanager
def needs_all_processes() -> Iterator[None]:
    """Raise GenerationError where another process is lost meanwhile."""
    try:
        yield
    except RuntimeError as error:
        # Gloo has no error of its own.
        if not isinstance(error, distributed.DistError) and "/gloo/" not in str(error):
            raise
        # Without the place in Gloo's source that it begins with, and its advice.
        reason = re.sub(r"^\[\S*\] ", "", str(error).splitlines()[0]).partition(". ")[0]
        raise GenerationError(
            f"another process of this run is gone, or cannot be reached ({reason}): start it "
            f"again, or all of them; they go on from the last checkpoint"
        ) from error
