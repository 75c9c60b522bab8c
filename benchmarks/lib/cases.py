"""The videos of a benchmark: every request on every device in every precision."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.benchmarks.lib.workload import shape_text
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import precisions_of
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.request import Request

__all__ = ["VideoCase", "video_cases"]


@dataclass(frozen=True, slots=True)
class VideoCase:
    """One video on one backend."""

    bundle: Path
    device: str
    precision: str
    """In the syntax of `hb-run --precision`."""
    label: str
    """The U-Net's precision, for the row's name."""
    request: Request
    runs: int
    """Warm videos."""
    threads: int | None
    """Cores to use; None for all."""
    folder: Path
    """For frames and videos."""

    @property
    def shape(self) -> str:
        """The shape of the video in words; rows of one shape are compared with each other."""
        steps, decoder = self.request.steps, self.request.decoder
        tiny = ", tiny decoder" if decoder == "tiny" else ""
        return f"{shape_text(self.request)}, {steps} step{'' if steps == 1 else 's'}{tiny}"

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.device} {self.label}, {self.shape}"

    @property
    def frames_file(self) -> Path:
        """The file of the last video's frames."""
        return self.folder / f"{self.name}.npy".replace(":", "-")


def video_cases(
    bundle: Bundle,
    devices: Sequence[str],
    precisions: Sequence[str],
    requests: Iterable[Request],
    runs: int,
    folder: Path,
    threads: int | None = None,
) -> Iterator[VideoCase]:
    """Yield every request on every device in every precision; `all` stands for all there are."""
    for request, name in itertools.product(requests, devices):
        device, wanted = Device.parse(name), dict.fromkeys(precisions)
        if "all" in wanted:
            graphs = bundle.manifest.stage("unet").precisions
            wanted = dict.fromkeys(map(str, precisions_of("unet", device, graphs)))
        for precision in wanted:
            argument, label = _precision_argument(bundle, device, request, precision)
            yield VideoCase(bundle.folder, name, argument, label, request, runs, threads, folder)


def _precision_argument(
    bundle: Bundle, device: Device, request: Request, precision: str
) -> tuple[str, str]:
    """Return the value of `hb-run --precision` that gives the U-Net `precision`, and its label.

    The decoder gets the same precision where the bundle has it.
    """
    manifest, stage = bundle.manifest, request.decoding_stage
    if precision == "auto":
        default = precisions_of("unet", device, manifest.stage("unet").trusted)
        return "auto", str(default[0]) if default else "auto"
    argument = f"unet={precision}"
    if precision in precisions_of(stage, device, manifest.stage(stage).precisions):
        argument += f",vae={precision}"
    return argument, precision
