"""Read a model's configuration off its checkpoint.

Tensor names and shapes tell nearly everything. What they do not tell (head counts, groups, the
meaning of the output) is read from the plain numbers of a whole-module pickle; a checkpoint
without them is taken to follow the published rules where its widths are the published ones.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from hummingbird_edge.export.checkpoint import Checkpoint
from hummingbird_edge.export.models.config import (
    PRESETS,
    ModelConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
)
from hummingbird_edge.export.stage import PREFIXES
from hummingbird_edge.runtime.errors import CheckpointError, RequestError

__all__ = ["preset_of", "read_config"]

_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_ADVICE = "say what it is with --preset or --config"


class _Part:
    """The tensors and metadata of one network, under its published names."""

    def __init__(self, checkpoint: Checkpoint, network: str) -> None:
        prefix = PREFIXES[network]
        self.network, self.source = network, checkpoint.source
        self.shapes: Mapping[str, torch.Size] = {
            name.removeprefix(prefix): checkpoint.tensors[name].shape
            for name in checkpoint.tensors
            if name.startswith(prefix)
        }
        self.metadata = {
            name.removeprefix(prefix): value
            for name, value in checkpoint.metadata.items()
            if name.startswith(prefix)
        }
        if not self.shapes:
            raise CheckpointError(
                f"{self.source} holds no {network} (no tensor begins with {prefix}): "
                f"it holds another kind of model, or a part of one"
            )

    def size(self, name: str, axis: int) -> int:
        """Return one axis of a tensor that every model of the family has."""
        shape = self.shapes.get(name)
        if shape is None or len(shape) <= axis:
            raise CheckpointError(
                f"{self.source} has no {self.network} tensor {name} of {axis + 1} or more axes: "
                f"it is not of this family, or damaged"
            )
        if shape[axis] < 1:
            raise CheckpointError(f"{self.source} has an empty tensor {name}: it is damaged")
        return int(shape[axis])

    def count(self, pattern: str) -> int:
        """Return how many different numbers the group of `pattern` takes among the names."""
        found = {m.group(1) for name in self.shapes if (m := re.match(pattern, name))}
        return len(found)

    def fact(self, name: str, otherwise: int | None) -> int:
        """Return a plain number of the pickle, else `otherwise`; raises where that is None."""
        value = self.metadata.get(name, otherwise)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(
                f"{self.source} does not tell the {self.network}'s {name.rsplit('.', 1)[-1]}, "
                f"which no tensor shape shows: {_ADVICE}"
            )
        return value


def read_config(checkpoint: Checkpoint) -> ModelConfig:
    """Return the configuration of a checkpoint; raises CheckpointError where it cannot be told."""
    parameterization = checkpoint.metadata.get("parameterization", "eps")
    prediction = _PREDICTIONS.get(str(parameterization))
    if prediction is None:
        raise CheckpointError(
            f"{checkpoint.source} predicts {parameterization!r}, known are "
            f"{', '.join(_PREDICTIONS)}: {_ADVICE}"
        )
    scaling = checkpoint.metadata.get("scale_factor", VAEConfig().scaling_factor)
    unet = _read_unet(_Part(checkpoint, "unet"))
    # A model without a guidance embedding is a teacher, sampled as VideoCrafter2 is.
    family = PRESETS["hummingbird-0.7b" if unet["guidance_width"] else "videocrafter2"]
    read = {
        "text": _read_text(_Part(checkpoint, "text_encoder")),
        "unet": unet,
        "vae": {**_read_vae(_Part(checkpoint, "vae")), "scaling_factor": scaling},
        "prediction_type": prediction,
    }
    try:
        return ModelConfig.from_dict({**family.to_dict(), **read})
    except RequestError as error:
        raise CheckpointError(f"{checkpoint.source}: {error}: {_ADVICE}") from error


def preset_of(config: ModelConfig) -> str | None:
    """Return the name of the published model that `config` is, if it is one."""
    return next((name for name, preset in PRESETS.items() if preset == config), None)


def _read_text(part: _Part) -> dict[str, Any]:
    width = part.size("token_embedding.weight", 1)
    published = TextConfig()
    heads = published.heads if width == published.width else None
    return {
        "vocab_size": part.size("token_embedding.weight", 0),
        "context_length": part.size("positional_embedding", 0),
        "width": width,
        "layers": part.count(r"transformer\.resblocks\.(\d+)\."),
        "heads": part.fact("transformer.resblocks.0.attn.num_heads", heads),
    }


def _read_unet(part: _Part) -> dict[str, Any]:
    width = part.size("input_blocks.0.0.weight", 0)
    levels = _levels(part)
    attended = [(index, block) for index, blocks in enumerate(levels) for block in blocks]
    attended = [(i, b) for i, b in attended if f"input_blocks.{b}.1.norm.weight" in part.shapes]
    if not attended:
        raise CheckpointError(f"{part.source} has a U-Net without attention: it cannot read text")
    block = f"input_blocks.{attended[0][1]}.1.transformer_blocks.0."
    initial = "init_attn.0.transformer_blocks.0.attn1."
    initial_heads = part.fact(initial + "heads", UNetConfig().initial_heads)
    return {
        "latent_channels": part.size("input_blocks.0.0.weight", 1),
        "width": width,
        "multipliers": tuple(_width(part, blocks[0]) // width for blocks in levels),
        "res_blocks": len(levels[0]),
        "attention_levels": tuple(sorted({index for index, _ in attended})),
        "head_width": part.size(initial + "to_q.weight", 0) // initial_heads,
        "initial_heads": initial_heads,
        "context_width": part.size(block + "attn2.to_k.weight", 1),
        "middle_block": "middle_block.0.in_layers.0.weight" in part.shapes,
        "guidance_width": (
            part.size("time_cond_proj.weight", 1)
            if "time_cond_proj.weight" in part.shapes
            else None
        ),
        "groups": part.fact("input_blocks.1.0.in_layers.0.num_groups", UNetConfig().groups),
    }


def _levels(part: _Part) -> list[list[int]]:
    """Return the residual blocks of each level, by their index on the way down."""
    levels: list[list[int]] = [[]]
    for index in range(1, part.count(r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.0.op.weight" in part.shapes:
            levels.append([])
        else:
            levels[-1].append(index)
    if not all(levels):
        raise CheckpointError(f"{part.source} has a U-Net level without residual blocks: damaged")
    return levels


def _width(part: _Part, block: int) -> int:
    return part.size(f"input_blocks.{block}.0.in_layers.2.weight", 0)


def _read_vae(part: _Part) -> dict[str, Any]:
    width = part.size("encoder.conv_in.weight", 0)
    levels = part.count(r"encoder\.down\.(\d+)\.")
    names = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    return {
        "width": width,
        "multipliers": tuple(part.size(name, 0) // width for name in names),
        "res_blocks": part.count(r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": part.size("post_quant_conv.weight", 0),
        "groups": part.fact("encoder.norm_out.num_groups", VAEConfig().groups),
    }
