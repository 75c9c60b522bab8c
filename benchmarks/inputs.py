"""What every stage sees in a real video: what tools are judged on, and calibrate with."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.machine import peak_mib
from hummingbird_edge.benchmarks.record import Row
from hummingbird_edge.benchmarks.subject import size_of
from hummingbird_edge.quantize.trajectory import encode, walk
from hummingbird_edge.runtime.bundle import Bundle
from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.placement import Option
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.session import open_session
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Seen", "read_inputs"]

Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A video whose stages' inputs are written."""

    bundle: Path
    request: Request
    folder: Path
    """For a file a stage."""

    @property
    def name(self) -> str:
        """The row's name."""
        return f"inputs, {size_of(self.request)}: all steps in float32 on the CPU"

    def write(self) -> Row:
        """Take all steps and keep the inputs of the last; float32, the same on every machine."""
        started, bundle, seen = time.perf_counter(), Bundle.open(self.bundle), Inputs()
        session = open_session(bundle.graph("unet"), Option(Device.parse("cpu")))

        def unet(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
            seen.update(inputs)
            return session.run(inputs)

        contexts = encode(bundle, [self.request.prompt])
        latents = walk(self.request, bundle, contexts, unet)[0].transpose(1, 0, 2, 3)
        facts = bundle.manifest.model
        tokens = Tokenizer(bundle.path("tokenizer"), facts.context_length)(self.request.prompt)
        # The tiny decoder takes the latents of diffusion as they are.
        scaled = latents / np.float32(facts.scaling_factor)
        found: dict[str, dict[str, Any]] = {
            "text_encoder": {"input_ids": tokens.ids[None]},
            "unet": seen,
            "vae_decoder": {"latent_sample": scaled},
            "tiny_decoder": {"latent_sample": latents},
        }
        for stage, inputs in found.items():
            np.savez(self.folder / f"{stage}.npz", **inputs)
        measures = {"ready_s": (time.perf_counter() - started,), "peak_mib": (peak_mib(),)}
        return Row(self.name, measures)


def read_inputs(folder: Path, stage: str, sizes: Mapping[str, int]) -> Inputs:
    """Return what `stage` saw; of a decoder's frames as many as `sizes` has.

    Raises RequestError where they were not written.
    """
    path = folder / f"{stage}.npz"
    if not path.exists():
        raise RequestError("there are no inputs, see their row")
    with np.load(path) as file:
        inputs = dict(file)
    if "latent_sample" in inputs:
        inputs["latent_sample"] = np.ascontiguousarray(inputs["latent_sample"][: sizes["frames"]])
    return inputs
