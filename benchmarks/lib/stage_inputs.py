"""The inputs that stages get in a real video: what peers are judged on and calibrate with.

The U-Net is judged on the last step and may be calibrated on those before it, a decoder on the
first frames and on those after them, the text encoder on the prompt and on the empty one.
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
from hummingbird_edge.benchmarks.lib.recording import Inputs, record_inputs
from hummingbird_edge.benchmarks.lib.workload import shape_text
from hummingbird_edge.quantize.trajectory import encode, sample_latents
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.decoder import decode, decoder_input
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_stage
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.request import Request

__all__ = ["StageInputs", "read_inputs"]


@dataclass(frozen=True, slots=True)
class StageInputs:
    """The recording of one video."""

    bundle: Path
    request: Request
    folder: Path
    """Gets one file for each run of a stage, `STAGE-INDEX.npz`."""

    @property
    def name(self) -> str:
        """The row's name."""
        return f"inputs, {shape_text(self.request)}: all steps in float32 on the CPU"

    def record(self) -> Row:
        """Sample in float32 on the CPU, the same on every machine, and write what stages get."""
        started, bundle = time.perf_counter(), Bundle.open(self.bundle)
        manifest, steps = bundle.manifest, list[Inputs]()
        sizes = self.request.stage_sizes(manifest)
        contexts = encode(bundle, [self.request.prompt])
        unet = open_stage(bundle, "unet", Backend.parse("cpu"), sizes["unet"]).run
        latents = sample_latents(self.request, manifest, record_inputs(unet, steps), contexts)
        _write(self.folder, "unet", steps[::-1])
        _write(self.folder, "text_encoder", _token_ids(bundle, self.request.prompt))
        chunk = sizes[self.request.decoding_stage]["frames"]
        for name, stage in manifest.stages.items():
            if stage.kind is StageKind.DECODER:
                chunks = list[Inputs]()
                z = decoder_input(latents, manifest.model, stage.takes_scaled_latents)
                for _ in decode(z, record_inputs(_identity, chunks), lambda: chunk):
                    pass
                _write(self.folder, name, chunks)
        measures = {"ready_s": (time.perf_counter() - started,), "peak_mib": (peak_mib(),)}
        return Row(self.name, measures)


def read_inputs(folder: Path, stage: str) -> list[Inputs]:
    """Return the inputs that `stage` is judged on, then those it may be calibrated on.

    A single recorded run serves as both. Raises RequestError where nothing was recorded.
    """
    recorded = list[Inputs]()
    while (path := folder / f"{stage}-{len(recorded)}.npz").exists():
        with np.load(path) as file:
            recorded.append(dict(file))
    if not recorded:
        raise RequestError("there are no inputs, see their row")
    return recorded if len(recorded) > 1 else recorded * 2


def _token_ids(bundle: Bundle, prompt: str) -> list[Inputs]:
    tokenizer = bundle.tokenizer()
    return [{"input_ids": tokenizer(text).ids[None]} for text in (prompt, "")]


def _identity(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the latents as they are: recording a decoder's inputs needs no decoder."""
    return inputs["latent_sample"]


def _write(folder: Path, stage: str, recorded: list[Inputs]) -> None:
    for index, inputs in enumerate(recorded):
        arrays: dict[str, Any] = {name: np.ascontiguousarray(x) for name, x in inputs.items()}
        np.savez(folder / f"{stage}-{index}.npz", **arrays)
