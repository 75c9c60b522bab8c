"""This project's own modules in PyTorch, random weights: what a runtime is held to.

Their attention is four-dimensional and the text is projected once for all frames, so they are
faster than the published code (39 s a U-Net step at full size in place of 53).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.stage import STAGES
from hummingbird_edge.export.weights import RandomWeights
from hummingbird_edge.quantize.storage import round_to_float16
from hummingbird_edge.runtime.bundle import Bundle

__all__ = ["Run", "config_of", "eager_run", "random_module", "timed"]

Run = Callable[[], NDArray[np.float32]]


def config_of(bundle: Bundle) -> ModelConfig:
    """Return the configuration that a bundle was built from."""
    return ModelConfig.from_dict(bundle.manifest.provenance["config"])


def random_module(config: ModelConfig, stage: str, half_stored: bool = True) -> nn.Module:
    """Return a stage's module with the weights of seed 0, as a bundle stores them."""
    known = STAGES[stage]
    module = known.module(RandomWeights().load(known.network, config)).eval()
    if half_stored:
        round_to_float16(module)
    return module


def eager_run(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> Run:
    """Return a run of `module` on these inputs, those that it takes."""
    import inspect

    takes = inspect.signature(getattr(module, "_orig_mod", module).forward).parameters
    inputs = {name: torch.from_numpy(x) for name, x in arrays.items() if name in takes}

    def run() -> NDArray[np.float32]:
        with torch.inference_mode():
            output: NDArray[np.float32] = module(**inputs).numpy()
        return output

    return run


def timed(run: Run, runs: int) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Return the last output, and the seconds of each run: of the first, which warms up, and of
    `runs` more."""
    output, seconds = np.zeros(0, np.float32), list[float]()
    for _ in range(1 + runs):
        started = time.perf_counter()
        output = run()
        seconds.append(time.perf_counter() - started)
    return output, tuple(seconds)
