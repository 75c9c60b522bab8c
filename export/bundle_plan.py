"""What a bundle is to be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.export.models.config import ModelConfig

__all__ = ["BundlePlan"]


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """What is to be built."""

    name: str
    config: ModelConfig
    stages: Sequence[str]
    """Names of stages, in the order of `STAGES`."""
    opset: int
    storage: str
    """How weights are stored, `float32` or `float16`; the arithmetic is float32 either way."""
    tokenizer: Path | None
    """A folder with the tokenizer's files; None for CLIP's own."""
    licence: str
    prompts: Sequence[str] = ()
    """What the model can be asked for."""
