"""The stages of a pipeline: the graph each becomes, and how it is fed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from hummingbird_edge.export.models import tiny_decoder
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.tiny_decoder import TinyDecoder, TinyVideoDecoder
from hummingbird_edge.export.models.unet import CrossAttention, UNet
from hummingbird_edge.export.models.vae import VAE, AttnBlock, VAEDecoder, VAEEncoder
from hummingbird_edge.kernels.feed_forward import GEGLU, SplitGEGLU
from hummingbird_edge.runtime.bundle.manifest import StageKind

__all__ = ["PREFIXES", "STAGES", "Stage", "count_kernels", "live_values", "network"]

PREFIXES: Mapping[str, str] = {
    "text_encoder": "cond_stage_model.model.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
}
"""What the published names of each network begin with."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One graph of a bundle. Names follow the ONNX pipelines of diffusers and optimum."""

    name: str
    network: str
    """The network whose weights it runs, a key of `PREFIXES`, or `tiny_decoder`."""
    axes: Mapping[str, Mapping[int, str]]
    """Each input, in order, with the names of its free axes."""
    output: str
    output_axes: Mapping[int, str]
    more_outputs: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Outputs behind the first, with their free axes."""

    @property
    def kind(self) -> StageKind:
        """What the stage takes and returns."""
        return _KINDS[self.name]

    def module(self, network: nn.Module, config: ModelConfig) -> nn.Module:
        """Return the part of `network` that this stage runs."""
        if isinstance(network, TinyDecoder):
            return TinyVideoDecoder(network, config.vae.scaling_factor)
        if isinstance(network, VAE):
            return VAEDecoder(network) if self.name == "vae_decoder" else VAEEncoder(network)
        return network

    def inputs(
        self, config: ModelConfig, frames: int, height: int, width: int, seed: int
    ) -> dict[str, torch.Tensor]:
        """Draw inputs for a clip of `frames` frames and latents of `height` x `width`."""
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw)

        text, unet, vae = config.text, config.unet, config.vae
        if self.name == "text_encoder":
            shape = (frames, text.context_length)
            return {"input_ids": torch.randint(text.vocab_size, shape, generator=draw)}
        if self.name in ("vae_decoder", "tiny_decoder"):
            return {"latent_sample": normal(frames, vae.latent_channels, height, width)}
        if self.name == "vae_encoder":
            down = vae.downsampling
            pixels = torch.rand((frames, 3, height * down, width * down), generator=draw)
            return {"sample": pixels * 2 - 1}
        inputs = {
            "sample": normal(1, unet.latent_channels, frames, height, width),
            "timestep": torch.tensor([759]),
            "encoder_hidden_states": normal(1, text.context_length, text.width),
            "timestep_cond": normal(1, unet.guidance_width or 1),
            "fps": torch.tensor([8]),
        }
        if unet.guidance_width is None:
            del inputs["timestep_cond"]
        return inputs


def network(name: str, config: ModelConfig) -> nn.Module:
    """Build an untrained network, for `name` a key of `PREFIXES` or `tiny_decoder`."""
    if name == "tiny_decoder":
        return TinyDecoder()
    if name == "text_encoder":
        return TextEncoder(config.text)
    return UNet(config.unet) if name == "unet" else VAE(config.vae)


def count_kernels(network: nn.Module, stage: str) -> dict[str, int]:
    """Return how many kernels of each kind that is fused the graph of a stage has.

    Attention with a mask is none of them, so that of the text encoder is not.
    """
    half = {"vae_decoder": "decoder.", "vae_encoder": "encoder."}.get(stage, "")
    layers = [m for name, m in network.named_modules() if name.startswith(half)]
    kinds = {
        "attentions": (CrossAttention, AttnBlock),
        "gelus": (GEGLU, SplitGEGLU),
        "group norms": (nn.GroupNorm,),
    }
    return {kernel: sum(isinstance(m, kind) for m in layers) for kernel, kind in kinds.items()}


def live_values(config: ModelConfig, stage: str) -> int | None:
    """Return how many values are alive at once for one latent pixel, or None for the text encoder.

    In tensors as wide as the network, measured with OpenVINO as memory over that of one such
    tensor: 20 while the U-Net's first level runs, 9 while the decoder's last level does (its pixels
    are `downsampling` squared as many), 9 while the first half of a tiled one ends (features at
    twice the latents' size), 3 in the tiny decoder.
    """
    pixels = config.vae.downsampling**2
    known = {
        "unet": 20 * config.unet.width,
        "vae_decoder": 9 * config.vae.width * pixels,
        "vae_decoder_head": 9 * config.vae.width * max(config.vae.multipliers) * 4,
        "vae_decoder_tail": 9 * config.vae.width * pixels,
        "tiny_decoder": 3 * tiny_decoder.WIDTH * pixels,
    }
    return known.get(stage)


_KINDS = {
    "text_encoder": StageKind.TEXT_ENCODER,
    "unet": StageKind.UNET,
    "vae_decoder": StageKind.DECODER,
    "vae_encoder": StageKind.ENCODER,
    "tiny_decoder": StageKind.DECODER,
}
_FRAMES = {0: "frames", 2: "height", 3: "width"}
_CLIP = {2: "frames", 3: "height", 4: "width"}
STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "text_encoder",
            "text_encoder",
            {"input_ids": {0: "batch"}},
            "last_hidden_state",
            {0: "batch"},
        ),
        Stage(
            "unet",
            "unet",
            {
                "sample": _CLIP,
                "timestep": {},
                "encoder_hidden_states": {},
                "timestep_cond": {},
                "fps": {},
            },
            "out_sample",
            _CLIP,
        ),
        Stage("vae_decoder", "vae", {"latent_sample": _FRAMES}, "sample", {0: "frames"}),
        Stage("vae_encoder", "vae", {"sample": _FRAMES}, "latent_parameters", {0: "frames"}),
        Stage("tiny_decoder", "tiny_decoder", {"latent_sample": _FRAMES}, "sample", {0: "frames"}),
    )
}
"""Every stage by its name, in the order in which a bundle is built."""
