"""What stages see in a real video: what tools are judged on, and what they may calibrate with.

The U-Net is judged on the last step and may be calibrated on those before it; a decoder on the
first frames and on those after them; the text encoder on the prompt and on the empty one.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.lib.machine import peak_mib
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.subject import size_of
from hummingbird_edge.quantize.trajectory import encode, walk
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request

__all__ = ["Inputs", "Seen", "read_inputs"]

Inputs = dict[str, NDArray[Any]]
"""Of a graph, by name."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A video whose stages' inputs are written."""

    bundle: Path
    request: Request
    folder: Path
    """For a file a stage and part."""

    @property
    def name(self) -> str:
        """The row's name."""
        return f"inputs, {size_of(self.request)}: all steps in float32 on the CPU"

    def write(self) -> Row:
        """Take all steps in float32, the same on every machine, and keep what stages see."""
        started, bundle = time.perf_counter(), Bundle.open(self.bundle)
        pipeline, backend = TextToVideo(bundle, device="cpu"), Backend.parse("cpu")
        graph = bundle.graph("unet", backend.device.family, backend.graph)
        sizes = self.request.stage_sizes(pipeline.bundle.manifest)
        session, steps = open_session(graph, backend, sizes["unet"]), list[Inputs]()

        def unet(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
            steps.append({name: np.array(value) for name, value in inputs.items()})
            return session.run(inputs)

        contexts = encode(bundle, [self.request.prompt])
        latents = walk(self.request, bundle, contexts, unet)[0].transpose(1, 0, 2, 3)
        prompts = [
            {"input_ids": pipeline.tokenizer(p).ids[None]} for p in ("", self.request.prompt)
        ]
        _keep(self.folder, "text_encoder", prompts[::-1])
        _keep(self.folder, "unet", steps[::-1])
        # The tiny decoder takes the latents of diffusion as they are.
        scaled = latents / np.float32(bundle.manifest.model.scaling_factor)
        for stage, z in {"vae_decoder": scaled, "tiny_decoder": latents}.items():
            count = sizes[self.request.decoding_stage]["frames"]
            parts = [z[start : start + count] for start in range(0, len(z) - count + 1, count)]
            _keep(self.folder, stage, [{"latent_sample": part} for part in parts])
        measures = {"ready_s": (time.perf_counter() - started,), "peak_mib": (peak_mib(),)}
        return Row(self.name, measures)


def read_inputs(folder: Path, stage: str) -> list[Inputs]:
    """Return what `stage` is judged on, and after that what it may be calibrated on.

    Where there is no more than one part, that is both. Raises RequestError where nothing was
    written.
    """
    parts = list[Inputs]()
    while (path := folder / f"{stage}-{len(parts)}.npz").exists():
        with np.load(path) as file:
            parts.append(dict(file))
    if not parts:
        raise RequestError("there are no inputs, see their row")
    return parts if len(parts) > 1 else parts * 2


def _keep(folder: Path, stage: str, parts: list[Inputs]) -> None:
    for index, part in enumerate(parts):
        arrays: dict[str, Any] = {name: np.ascontiguousarray(x) for name, x in part.items()}
        np.savez(folder / f"{stage}-{index}.npz", **arrays)
