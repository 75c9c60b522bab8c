"""Draw training batches from encoded clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Batch", "Batches", "draw_fps"]


@dataclass(frozen=True)
class Batch:
    """Clips with one of their captions each."""

    x0: torch.Tensor
    """(B, C, T, h, w) float32 scaled latents."""
    ids: torch.Tensor
    """(B, 77) int64 token ids."""
    captions: Sequence[str]
    """The captions of the ids."""


class Batches:
    """Draw clips, with replacement, and one caption of each."""

    def __init__(self, clips: Clips, tokenizer: Tokenizer, device: torch.device) -> None:
        self.captions = clips.captions
        self.latents, self.ids = clips.latents.to(device), clips.ids(tokenizer).to(device)

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Draw `count` clips by a CPU generator."""
        rows = torch.randint(len(self.latents), (count,), generator=generator)
        wordings = torch.randint(self.ids.shape[1], (count,), generator=generator)
        captions = [
            self.captions[row][wording % len(self.captions[row])]
            for row, wording in zip(rows.tolist(), wordings.tolist(), strict=True)
        ]
        return Batch(self.latents[rows].float(), self.ids[rows, wordings], captions)


def draw_fps(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw frame rates from 4 to 24, (B,) int64."""
    return torch.randint(4, 25, (count,), generator=generator)
