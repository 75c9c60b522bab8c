"""A small contrastive text-video scorer: does this clip go with this caption?

Two towers, one for clips and one for captions, meet in a shared space; matching pairs of a batch
are pulled together, all others pushed apart. Source: CLIP (Radford et al. 2021, arXiv:2103.00020),
figure 3, with clips for images, as in InternVideo2 (arXiv:2403.15377), which it replaces here.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, normalize

from hummingbird_edge.distill.mixed_precision import mixed_precision
from hummingbird_edge.distill.train.run import Run, load_finished
from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.distill.world.shapes.captions import sample_training
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import World
from hummingbird_edge.export.models.config import TextConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["ContrastiveReward", "Scorer", "ScorerStage"]

WIDTH = 64


class VideoTower(nn.Module):
    """Convolve each frame down to 4 x 4, mix neighbouring frames, average."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, WIDTH, WIDTH)
        layers: list[nn.Module] = []
        for channels, out_channels in pairwise(widths):
            layers += [nn.Conv2d(channels, out_channels, 3, 2, 1), nn.GroupNorm(4, out_channels)]
            layers += [nn.SiLU()]
        self.frame = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4))
        self.place = nn.Linear(16 * WIDTH, 2 * WIDTH)
        self.time = nn.Sequential(
            nn.Conv1d(2 * WIDTH, 2 * WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(2 * WIDTH, 2 * WIDTH, 3, padding=1),
            nn.SiLU(),
        )
        self.out = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Embed clips (B, T, 3, H, W) in [0, 1] as (B, 64)."""
        features = self.place(self.frame(clips.flatten(0, 1) * 2 - 1).flatten(1))
        features = features.unflatten(0, clips.shape[:2]).transpose(1, 2)
        features = features + self.time(features)
        embedding: torch.Tensor = self.out(torch.cat([features.mean(2), features.amax(2)], dim=1))
        return embedding


class Scorer(nn.Module):
    """Both towers and the temperature."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.video = VideoTower()
        self.text = TextEncoder(TextConfig(vocab_size, width=WIDTH, layers=3, heads=4))
        self.scale = nn.Parameter(torch.tensor(2.7))

    def embed(self, clips: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unit embeddings of clips and captions, (B, 64) each."""
        return normalize(self.video(clips), dim=1), normalize(self.text(ids).mean(1), dim=1)


class ScorerStage(Stage[Scorer]):
    """The contrastive loss on clips drawn on the fly, softened as decoded ones are."""

    def __init__(
        self, world: World, tokenizer: Tokenizer, batch: int, device: torch.device
    ) -> None:
        super().__init__()
        self.trained = Scorer(tokenizer.vocabulary_size).to(device)
        self.world, self.tokenizer, self.batch, self.device = world, tokenizer, batch, device

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Return `loss` and `found`, the share of clips that find their caption in the batch."""
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = [self.world.draw(rng) for _ in range(self.batch)]
        captions = sample_training(scenes, rng)
        ids = torch.tensor([self.tokenizer(caption).ids.tolist() for caption in captions])
        clips = soften(render(scenes, self.world, generator), generator)
        with mixed_precision(self.device):
            seen, text = self.trained.embed(clips.to(self.device), ids.to(self.device))
        logits = self.trained.scale.exp().clamp(max=50) * seen.float() @ text.float().T
        # Equal scenes of a batch are no wrong answers to each other.
        same = torch.tensor([[a == b for b in scenes] for a in scenes], device=self.device)
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -1e4)
        right = torch.arange(len(scenes), device=self.device)
        loss = (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
        return {"loss": loss, "found": logits.argmax(1).eq(right).float().mean()}


def soften(clips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur and add noise by chance, so that no pixel-sharp edge is learnt."""
    size = clips.shape[-1]
    small = int(torch.randint(size // 2, size + 1, (), generator=generator))
    flat = interpolate(clips.flatten(0, 1), size=(small, small), mode="bilinear", antialias=True)
    soft = interpolate(flat, size=(size, size), mode="bilinear").unflatten(0, clips.shape[:2])
    loudness = 0.05 * torch.rand(len(clips), 1, 1, 1, 1, generator=generator)
    return soft + loudness * torch.randn(soft.shape, generator=generator)


class ContrastiveReward:
    """The cosine of clip and caption."""

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer) -> None:
        self.scorer, self.tokenizer = scorer.eval().requires_grad_(False), tokenizer

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer, device: torch.device) -> "ContrastiveReward":
        """Load the averaged weights of a finished scorer run; raises RequestError without one."""
        run = Run(folder, "scorer")
        if (state := run.load()) is None:
            raise RequestError(f"{folder} has no scorer: run hb-distill scorer {folder} first")
        scorer = Scorer(tokenizer.vocabulary_size)
        load_finished(run, state, scorer)
        return cls(scorer.to(device), tokenizer)

    def __call__(self, frames: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Return the cosine of each clip with its caption, (B,) in [-1, 1]."""
        ids = torch.tensor([self.tokenizer(caption).ids.tolist() for caption in captions])
        with mixed_precision(frames.device):
            seen, text = self.scorer.embed(frames, ids.to(frames.device))
        return (seen.float() * text.float()).sum(1)
