"""A decoder run by tiles: the bundle's head and tail, loaded as one session."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.engines.session import Session, open_session
from hummingbird_edge.runtime.engines.tiles import decode_tiled
from hummingbird_edge.runtime.placement.plan import Placement, Sizes

__all__ = ["TiledSession"]


class TiledSession(Session):
    """Takes latents (frames, C, h, w), returns RGB (frames, 3, H, W), as the whole decoder does."""

    def __init__(
        self, bundle: Bundle, way: Placement, cache: Path | None, notify: Callable[[str], None]
    ) -> None:
        """Load both halves for `way`, which has tiles; raises DeviceError or BundleError."""
        assert way.tiles is not None
        self.backend, self._tiles = way.backend, way.tiles
        facts = bundle.manifest.tail
        assert facts is not None  # else there are no tiles
        self._facts, scale = facts, facts.scale
        (head, whole), (tail, tile) = way.graphs()
        tile = {**tile, "height": tile["height"] * scale, "width": tile["width"] * scale}

        def opened(stage: str, sizes: Sizes) -> Session:
            graph = bundle.graph(stage, way.backend.device.family, way.backend.graph)
            return open_session(graph, way.backend, sizes, cache, notify)

        self._head, self._tail = opened(head, whole), opened(tail, tile)
        self.share = min(self._head.share, self._tail.share)

    def run_all(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Decode `latent_sample`; raises DeviceError where the engine fails."""
        latents = inputs["latent_sample"]
        layers, groups = self._facts.layers, self._facts.groups
        frames = decode_tiled(
            latents, self._tiles, self._head.run, self._tail.run_all, layers, groups
        )
        self.share = min(self._head.share, self._tail.share)  # some know it only after a run
        return (frames,)
