"""The processes of a run: one, or many under `accelerate launch` or `torchrun`."""

from contextlib import AbstractContextManager

import torch
from accelerate import PartialState

__all__ = ["device", "in_turn", "is_first"]


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
