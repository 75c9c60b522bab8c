"""One run of one stage on random inputs: the unit of probing and of tuning."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import Manifest, StageKind
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.energy import EnergyMeter, find_meter
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.loading import open_stage

__all__ = [
    "MIN_INT8_SNR_DB",
    "MIN_SNR_DB",
    "MIN_TRIAL_S",
    "Trial",
    "example_inputs",
    "run_trial",
    "snr_db",
]

MIN_SNR_DB = 20.0
"""Of a correct backend against the CPU in fp32. One step in bfloat16 has 35 dB in the built-in
model, 22 with random weights in the published layout; the wrong kernels met had 16 and less."""
MIN_INT8_SNR_DB = 10.0
"""Of a quantized graph, whose frames were compared when it was made; random inputs suit it less."""
MIN_TRIAL_S = 2.0
"""Unless so many runs take less."""
_MAX_RUNS = 7


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What came of it."""

    output: NDArray[np.float32]
    load_s: float
    seconds: tuple[float, ...]
    """Of each run but the first, which warms up."""
    share: float
    """Share of the nodes that the device took, in [0, 1]."""
    joules: float | None = None
    """Of one run, a mean; None where the system does not tell, or not of this device."""

    @property
    def median_s(self) -> float:
        """The median of the runs."""
        return statistics.median(self.seconds)


def example_inputs(
    manifest: Manifest, stage: str, sizes: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    """Draw inputs of a stage, the same every time, for free axes of these `sizes`."""
    rng, model = np.random.default_rng(0), manifest.model

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    kind = manifest.stage(stage).kind
    if kind is StageKind.TEXT_ENCODER:
        return {"input_ids": np.ones((sizes["batch"], model.context_length), np.int64)}
    clip = sizes["frames"], sizes["height"], sizes["width"]
    if kind is StageKind.UNET:
        return {
            "sample": normal(1, model.latent_channels, *clip),
            "timestep": np.array([759], np.int64),
            "encoder_hidden_states": normal(1, model.context_length, model.context_width),
            "timestep_cond": normal(1, model.guidance_width or 1),
            "fps": np.array([8], np.int64),
        }
    return {"latent_sample": normal(clip[0], model.latent_channels, *clip[1:])}


def run_trial(
    bundle: Bundle,
    stage: str,
    backend: Backend,
    sizes: Mapping[str, int],
    cache: CompileCache | None = None,
    runs: int = _MAX_RUNS,
    enough_s: float = MIN_TRIAL_S,
    notify: Callable[[str], None] = lambda _: None,
    meter: EnergyMeter | None = None,
) -> Trial:
    """Load the stage, run it once to warm up, then `runs` times or for `enough_s` seconds.

    `meter` counts joules; without it, that of the machine does. Raises DeviceError where the device
    refuses or fails.
    """
    inputs = example_inputs(bundle.manifest, stage, sizes)
    started = time.perf_counter()
    session = open_stage(bundle, stage, backend, sizes, cache, notify)
    load_s = time.perf_counter() - started
    output, seconds = session.run(inputs), list[float]()
    meter = meter or find_meter()
    before_j = meter.read()
    while len(seconds) < runs and sum(seconds) < enough_s:
        started = time.perf_counter()
        output = session.run(inputs)
        seconds.append(time.perf_counter() - started)
    joules = _joules_a_run(meter, backend, before_j, seconds)
    return Trial(output, load_s, tuple(seconds), session.share, joules)


def _joules_a_run(
    meter: EnergyMeter, backend: Backend, before_j: float | None, seconds: list[float]
) -> float | None:
    now_j = meter.read()
    if now_j is None or before_j is None or not seconds or not meter.covers(backend.device):
        return None
    told = meter.told(now_j - before_j, sum(seconds))
    return None if told is None else told / len(seconds)


def snr_db(found: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio in decibels; minus infinity where a value is NaN."""
    noise, signal = float(np.square(found - truth).sum()), float(np.square(truth).sum())
    if not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(max(signal, 1e-30) / max(noise, 1e-20 * signal, 1e-30))
