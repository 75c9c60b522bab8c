"""How many operations a stage's graph takes, counted by PyTorch on a network without numbers.

Layers are counted in their forms for graphs: upsampling convolutions take 4 of 9 products there.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from hummingbird_edge.export.graph import for_export
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.stage import STAGES, network

__all__ = ["count_flops"]


def count_flops(config: ModelConfig, name: str) -> int:
    """Return the FLOP of a stage for each latent pixel, of a text encoder for a whole prompt.

    A multiply-add is two. They are counted at the model's default size: what attention takes grows
    with the square of a picture, which is a small part of all.
    """
    size, down = config.defaults, config.vae.downsampling
    stage, clip = STAGES[name], (size.frames, size.height // down, size.width // down)
    if name == "text_encoder":
        clip = (1, 1, 1)
    with torch.device("meta"):
        module = for_export(stage.module(network(stage.network, config), config)).eval()
    inputs = {key: value.to("meta") for key, value in stage.inputs(config, *clip, seed=0).items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs.values())
    total: int = counter.get_total_flops()
    return total // (clip[0] * clip[1] * clip[2])
