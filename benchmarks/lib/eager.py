"""The baseline: this project's own modules in PyTorch's eager mode.

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

from hummingbird_edge.benchmarks.lib.recording import Network
from hummingbird_edge.benchmarks.lib.timing import Run
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.stage import STAGES
from hummingbird_edge.export.weights import RandomWeights
from hummingbird_edge.quantize.storage import round_to_float16
from hummingbird_edge.runtime.bundle.bundle import Bundle

__all__ = ["config_of", "eager_network", "eager_run", "inputs_for", "random_module"]


def config_of(bundle: Bundle) -> ModelConfig:
    """Return the configuration that a bundle was built from."""
    return ModelConfig.from_dict(bundle.manifest.provenance.config)


def random_module(config: ModelConfig, stage: str, float16_storage: bool = True) -> nn.Module:
    """Return a stage's module with the weights of seed 0, rounded as a bundle stores them."""
    known = STAGES[stage]
    module = known.module(RandomWeights().load(known.network, config), config).eval()
    if float16_storage:
        round_to_float16(module)
    return module


def inputs_for(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return those of a graph's inputs that its module takes."""
    # torch.compile wraps the module that has the names.
    parameters = inspect.signature(getattr(module, "_orig_mod", module).forward).parameters
    return {name: torch.from_numpy(x) for name, x in arrays.items() if name in parameters}


def eager_network(module: nn.Module, dtype: torch.dtype = torch.float32) -> Network:
    """Return a function that runs `module` on the inputs of its graph.

    Another `dtype` than float32 is by PyTorch's autocast, which chooses the operators.
    """
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast:
            output: NDArray[np.float32] = module(**inputs_for(module, inputs)).float().numpy()
        return output

    return run


def eager_run(
    module: nn.Module, inputs: Mapping[str, NDArray[Any]], dtype: torch.dtype = torch.float32
) -> Run:
    """Return a run of `module` on these inputs."""
    network = eager_network(module, dtype)
    return lambda: network(inputs)
