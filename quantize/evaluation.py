"""Frames of a quantized model compared with float32 ones, for the same prompts and seeds."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.quantize.quality import Quality, compare
from hummingbird_edge.quantize.trajectory import decode_frames, sample_latents
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.loading import open_session, open_stage
from hummingbird_edge.runtime.engines.session import Session
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import to_pixels

__all__ = ["Evaluation", "Frames"]

_CPU = Backend.parse("cpu")
Frames = NDArray[np.uint8]


class Evaluation:
    """Makes the videos of `plan` on a CPU."""

    def __init__(
        self,
        bundle: Bundle,
        plan: Sequence[Request],
        contexts: Mapping[str, NDArray[np.float32]],
        backend: Backend = _CPU,
        every: int = 1,
    ) -> None:
        """`contexts` holds the encoded prompts; a float32 `bundle` gives the references.

        `backend` runs the graphs that are compared with them, its device the references in float32
        too. Of a video `every` so many frames are decoded.
        """
        self._bundle, self._plan, self._contexts = bundle, plan, contexts
        self._backend, self._every = backend, every

    @cached_property
    def references(self) -> list[Frames]:
        """The videos in float32, (T, H, W, 3) uint8 each."""
        return self.videos(None, None)

    def measure(self, unet: Path | None, vae: Path | None) -> Quality:
        """Compare the videos made by these graphs (float32 for None) with the references."""
        return compare(self.videos(unet, vae), self.references)

    def measure_stages(self, unet: Path | None, vae: Path | None) -> dict[str, Quality]:
        """Compare the videos by both graphs (`video`), and by each of them alone, by stage.

        A decoder is opened once for all that it decodes.
        """
        exact, latents = self._exact, [] if unet is None else self._sampled(unet)
        count, found = len(exact), dict[str, Quality]()
        videos = self._decoded([*exact, *latents], None)
        references = videos[:count]
        if unet is not None:
            found["unet"] = compare(videos[count:], references)
        if vae is not None:
            videos = self._decoded([*exact, *latents], vae)
            found["vae_decoder"] = compare(videos[:count], references)
        return {"video": compare(videos[-count:], references), **found}

    def videos(self, unet: Path | None, vae: Path | None) -> list[Frames]:
        """Make the videos with these graphs, or the float32 graph for None."""
        return self._decoded(self._latents(unet), vae)

    def _decoded(self, latents: list[NDArray[np.float32]], vae: Path | None) -> list[Frames]:
        network = self._open("vae_decoder", vae)
        manifest = self._bundle.manifest
        return [
            to_pixels(decode_frames(clip, manifest, network.run, slice(None, None, self._every)))
            for clip in latents
        ]

    @cached_property
    def _exact(self) -> list[NDArray[np.float32]]:
        """The latents of the videos in float32."""
        return self._sampled(None)

    def _latents(self, unet: Path | None) -> list[NDArray[np.float32]]:
        return self._exact if unet is None else self._sampled(unet)

    def _sampled(self, unet: Path | None) -> list[NDArray[np.float32]]:
        network, manifest = self._open("unet", unet), self._bundle.manifest
        return [sample_latents(each, manifest, network.run, self._contexts) for each in self._plan]

    def _open(self, stage: str, graph: Path | None) -> Session:
        frames, height, width = self._plan[0].latent_shape(self._bundle.manifest)[2:]
        sizes = {"frames": frames if stage == "unet" else 1, "height": height, "width": width}
        if graph is None:
            return open_stage(self._bundle, stage, Backend(self._backend.device), sizes)
        return open_session(graph, self._backend, sizes)
