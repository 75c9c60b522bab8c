"""Train a tiny autoencoder for two steps; run by `torchrun` in test_distill.py.

Each process writes the digest of its weights and the seed of its first batch into FOLDER.
"""

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist

from hummingbird_edge.distill.train.autoencoder import AutoencoderStage
from hummingbird_edge.distill.train.processes import device
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.training import Plan, fit
from hummingbird_edge.distill.world.shapes.scene import World
from hummingbird_edge.export.models.config import VAEConfig

WORLD = World(resolution=16, frames=4)


class Noting(AutoencoderStage):
    """Note by which seeds the batches were drawn."""

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Train as ever."""
        self.seeds = [*getattr(self, "seeds", []), generator.initial_seed()]
        return super().forward(step, generator)


def digest(*arrays: bytes) -> str:
    """Return one digest of all."""
    return hashlib.sha256(b"".join(arrays)).hexdigest()


def main(folder: Path) -> None:
    """Train and write."""
    config = VAEConfig(width=8, multipliers=(1, 1), res_blocks=1, groups=2)
    stage = Noting(config, WORLD, 2, device())
    fit(Run(folder, "autoencoder"), stage, Plan(2, 2, 1e-3, log_every=1, save_every=2), seed=0)
    rank, count = int(os.environ["RANK"]), dist.get_world_size()
    weights = digest(*(p.detach().numpy().tobytes() for p in stage.trained.parameters()))
    (folder / f"process-{rank}").write_text(f"{count} {weights} {stage.seeds[0]}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
