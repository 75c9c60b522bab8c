"""This project's own modules in PyTorch, random weights: what a runtime is held to.

Their attention is four-dimensional and the text is projected once for all frames, so they are
faster than the published code.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.benchmarks.lib.repeat import Run
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.stage import STAGES
from hummingbird_edge.export.weights import RandomWeights
from hummingbird_edge.quantize.storage import round_to_float16
from hummingbird_edge.runtime.bundle.bundle import Bundle

__all__ = ["config_of", "eager_run", "inputs_for", "random_module"]


def config_of(bundle: Bundle) -> ModelConfig:
    """Return the configuration that a bundle was built from."""
    return ModelConfig.from_dict(bundle.manifest.provenance.config)


def random_module(config: ModelConfig, stage: str, half_stored: bool = True) -> nn.Module:
    """Return a stage's module with the weights of seed 0, as a bundle stores them."""
    known = STAGES[stage]
    module = known.module(RandomWeights().load(known.network, config), config).eval()
    if half_stored:
        round_to_float16(module)
    return module


def inputs_for(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return those of a graph's inputs that its module takes."""
    # torch.compile wraps the module that has the names.
    takes = inspect.signature(getattr(module, "_orig_mod", module).forward).parameters
    return {name: torch.from_numpy(x) for name, x in arrays.items() if name in takes}


def eager_run(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> Run:
    """Return a run of `module` on these inputs, those that it takes."""
    inputs = inputs_for(module, arrays)

    def run() -> NDArray[np.float32]:
        with torch.inference_mode():
            output: NDArray[np.float32] = module(**inputs).numpy()
        return output

    return run
