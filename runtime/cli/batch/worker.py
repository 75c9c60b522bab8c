"""What a worker is told, and what it does, in a process here or on a node of a cluster."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import say
from hummingbird_edge.runtime.errors import (
    BundleError,
    HummingbirdError,
    OutputError,
    RequestError,
)
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request

__all__ = ["Answer", "Cores", "Maker", "Settings", "Task", "Worker", "WorkerEnded"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How all workers of a batch make videos."""

    bundle: str
    """Its folder, an absolute path."""
    digest: str
    """Of its manifest."""
    version: str
    """Of this package: what another one makes differs."""
    precision: str = "auto"
    max_memory: int | None = None
    """Bytes of each worker."""
    low_power: bool = False


@dataclass(frozen=True, slots=True)
class Cores:
    """The part of a machine's cores that a worker keeps to.

    Threads of two workers on the same cores wait for each other.
    """

    first: int = 0
    count: int = 1 << 30
    """Beyond what there is, all."""

    def keep(self) -> None:
        """Keep this process to them, where the system can do that."""
        process = psutil.Process()
        if not hasattr(process, "cpu_affinity"):
            return
        every = process.cpu_affinity() or []
        if self.count < len(every):
            mine = [every[(self.first + n) % len(every)] for n in range(self.count)]
            process.cpu_affinity(mine)


@dataclass(frozen=True, slots=True)
class Task:
    """A video to be made."""

    custom_id: str
    request: Request
    path: Path
    """Where it goes, on the machine of the command."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a task: the video is at its path, or there is an error."""

    timings: dict[str, Any] | None = None
    code: str = ""
    """A word for programs where there is an error."""
    message: str = ""


class WorkerEnded(Exception):
    """Raised where a worker is no more; what it was making can be made by another."""


class Worker(Protocol):
    """Makes one video after the other."""

    def start(self) -> None:
        """Wait until it can; raises WorkerEnded, HummingbirdError where it never will."""

    def make(self, task: Task) -> Answer:
        """Make a video; raises WorkerEnded, DeviceError where it can make no more, or others.

        Those are HummingbirdErrors where no other worker could do it.
        """

    def close(self) -> None:
        """End it, in any thread and at any time; what it was making is lost."""


class Maker:
    """The work itself."""

    def __init__(
        self, settings: Settings, device: str, folder: Path, notify: Callable[[str], None]
    ) -> None:
        """Open the bundle in `folder`; raises HummingbirdError."""
        bundle = Bundle.open(folder)
        if bundle.digest != settings.digest:
            raise BundleError(f"{folder} has changed since the batch began: begin it again")
        self._pipeline = TextToVideo.from_bundle(
            bundle,
            device=device,
            precision=settings.precision,
            max_memory=settings.max_memory,
            low_power=settings.low_power,
            notify=notify,
        )

    def make(self, request: Request, path: Path) -> Answer:
        """Make a video at `path`; raises OutputError where it cannot be written."""
        try:
            for progress in self._pipeline.generate(request):
                video = progress.video
            assert video is not None  # the last one carries it
            video.save(path)
        except OutputError:
            raise
        except (HummingbirdError, MemoryError) as error:
            is_invalid = isinstance(error, RequestError)
            text = str(error) or "there is too little memory: ask for less"
            return Answer(None, "invalid_value" if is_invalid else "generation_failed", text)
        except Exception as error:  # a fault of this program: the next video may do
            # Without its message: that may hold a prompt.
            say(f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}")
            text = f"an unexpected error, {type(error).__name__}: please report it"
            return Answer(None, "internal_error", text)
        return Answer(video.timings.as_dict())
