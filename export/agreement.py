"""Hold an exported graph to the PyTorch module it came from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.stage import Stage
from hummingbird_edge.runtime.devices.packages import import_onnxruntime
from hummingbird_edge.runtime.engines.onnxruntime import first_line
from hummingbird_edge.runtime.errors import CheckpointError, device_error

__all__ = ["Agreement", "assert_close", "compare", "reference_outputs"]

_MIN_SNR_DB = 80.0
"""Float32 graphs of this family agree to 100 dB and more; less is a wrong graph."""
_ERRORS_ONLY = 3


@dataclass(frozen=True, slots=True)
class Agreement:
    """The worst of several comparisons on random inputs."""

    largest_difference: float
    snr_db: float
    """Signal-to-noise ratio, 10 log10 of squared values over squared differences."""
    shapes: tuple[tuple[int, int, int], ...]
    """Frames, latent height and latent width compared."""

    def __str__(self) -> str:
        return f"within {self.largest_difference:.1e} of PyTorch ({self.snr_db:.0f} dB)"


def _cases(stage: Stage, config: ModelConfig) -> list[dict[str, torch.Tensor]]:
    return [stage.inputs(config, *shape, seed) for seed, shape in enumerate(_shapes(config), 1)]


def _shapes(config: ModelConfig) -> tuple[tuple[int, int, int], ...]:
    """Return sizes that no graph is traced with: frames, latent height, latent width."""
    down = config.unet.downsampling
    return ((2, 2 * down, down), (5, down, 2 * down))


def reference_outputs(
    module: nn.Module, stage: Stage, config: ModelConfig
) -> list[NDArray[np.float64]]:
    """Run the PyTorch module, in its published form, on the inputs of the comparison."""
    with torch.no_grad():
        return [module(**inputs).double().numpy() for inputs in _cases(stage, config)]


def compare(
    references: list[NDArray[np.float64]], stage: Stage, config: ModelConfig, graph: Path
) -> Agreement:
    """Run the graph on the inputs of `references`; raises CheckpointError where it differs.

    It runs as it was written: the engine's optimizations, which take several times as long as these
    runs, would come between the file and the module.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the library raises bare exceptions of several kinds
        raise device_error(
            error,
            f"ONNX Runtime cannot load the exported {stage.name} ({first_line(error)}): "
            f"this PyTorch exports it wrongly, or memory is short",
        ) from error
    names = {entry.name for entry in session.get_inputs()}

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        fed = {name: value for name, value in inputs.items() if name in names}
        return np.asarray(session.run(None, fed)[0], np.float32)

    return assert_close(references, stage, config, run)


def assert_close(
    references: list[NDArray[np.float64]],
    stage: Stage,
    config: ModelConfig,
    run: Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]],
) -> Agreement:
    """Compare what `run` makes of the inputs of `references`; raises CheckpointError."""
    differences, ratios = [], []
    for inputs, expected in zip(_cases(stage, config), references, strict=True):
        found = run({name: tensor.numpy() for name, tensor in inputs.items()})
        error = found.astype(np.float64) - expected
        differences.append(float(np.abs(error).max()))
        noise, signal = float(np.square(error).sum()), float(np.square(expected).sum())
        ratios.append(10 * math.log10(signal / max(noise, 1e-30)) if signal > 0 else math.nan)
    agreement = Agreement(max(differences), min(ratios), _shapes(config))
    if not min(ratios) >= _MIN_SNR_DB:  # NaN fails too
        raise CheckpointError(
            f"the exported {stage.name} differs from PyTorch by {agreement.largest_difference:.3g} "
            f"({agreement.snr_db:.1f} dB, at least {_MIN_SNR_DB:.0f} are needed): "
            f"the weights overflow float32, or this PyTorch exports them wrongly"
        )
    return agreement
