"""Hold an exported graph to the PyTorch module it came from."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.stage import Stage
from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.errors import CheckpointError
from hummingbird_edge.runtime.session import open_session

__all__ = ["Agreement", "compare"]

_LEAST_SNR_DB = 80.0
"""Float32 graphs of this family agree to 100 dB and more; less is a wrong graph."""


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


def compare(module: nn.Module, stage: Stage, config: ModelConfig, graph: Path) -> Agreement:
    """Run graph and module on the same inputs, at sizes the graph was not traced with.

    Raises CheckpointError where they differ or are not finite.
    """
    down = config.unet.downsampling
    shapes = ((2, 2 * down, down), (5, down, 2 * down))
    session = open_session(graph, Device.parse("cpu"))
    differences, ratios = [], []
    for seed, shape in enumerate(shapes, start=1):
        inputs = stage.inputs(config, *shape, seed)
        with torch.no_grad():
            expected = module(**inputs).double().numpy()
        found = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
        error = found.astype(np.float64) - expected
        differences.append(float(np.abs(error).max()))
        noise, signal = float(np.square(error).sum()), float(np.square(expected).sum())
        ratios.append(10 * math.log10(signal / max(noise, 1e-30)) if signal > 0 else math.nan)
    agreement = Agreement(max(differences), min(ratios), shapes)
    if not min(ratios) >= _LEAST_SNR_DB:  # NaN fails too
        raise CheckpointError(
            f"the exported {stage.name} differs from PyTorch by {agreement.largest_difference:.3g} "
            f"({agreement.snr_db:.1f} dB, at least {_LEAST_SNR_DB:.0f} are needed): "
            f"the weights overflow float32, or this PyTorch exports them wrongly"
        )
    return agreement
