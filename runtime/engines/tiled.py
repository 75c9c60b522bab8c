"""A decoder run by tiles: the bundle's head and tail, loaded as one session."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import TiledConfig
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.loading import Opener, open_stage
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.engines.tiles import Tiles, decode_tiled

__all__ = ["TiledSession"]


@dataclass
class TiledSession(Session):
    """Takes latents (frames, C, h, w), returns RGB (frames, 3, H, W), as the whole decoder does."""

    backend: Backend
    config: TiledConfig
    tiles: Tiles
    head: Session
    tail: Session
    share: float = 1.0

    def __post_init__(self) -> None:
        self.share = min(self.head.share, self.tail.share)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        backend: Backend,
        tiles: Tiles,
        stages: tuple[str, str],
        frames: int,
        cache: CompileCache | None,
        notify: Callable[[str], None],
        opener: Opener | None = None,
    ) -> "TiledSession":
        """Load `stages`, the names of head and tail, for `frames` frames at once.

        Raises DeviceError, or BundleError where the bundle has no such stages.
        """
        head, tail = stages
        config = bundle.manifest.stage(tail).tiled
        assert config is not None  # the manifest holds a tail to it
        whole = {"frames": frames, "height": tiles.height, "width": tiles.width}
        tile = {
            "frames": frames,
            "height": tiles.tile_height * config.scale,
            "width": tiles.tile_width * config.scale,
        }
        return cls(
            backend,
            config,
            tiles,
            open_stage(bundle, head, backend, whole, cache, notify, opener),
            open_stage(bundle, tail, backend, tile, cache, notify, opener),
        )

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Decode `latent_sample`; raises DeviceError where the engine fails."""
        config, latents = self.config, inputs["latent_sample"]
        frames = decode_tiled(
            latents, self.tiles, self.head.run, self.tail.run_all, config.layers, config.groups
        )
        self.share = min(self.head.share, self.tail.share)  # some know it only after a run
        return (frames,)
