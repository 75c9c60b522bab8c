"""Latents to frames, a few at once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.manifest import Manifest, ModelMetadata
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.media.preview import linear_preview
from hummingbird_edge.runtime.media.temporal_noise import remove_temporal_noise
from hummingbird_edge.runtime.placement.planner import decoder_sizes
from hummingbird_edge.runtime.placement.runner import Runner
from hummingbird_edge.runtime.placement.stages import Stages
from hummingbird_edge.runtime.result import to_pixels

__all__ = ["decode", "decode_by", "decoder_input", "preview", "require_preview"]

Floats = NDArray[np.float32]


def decoder_input(latents: Floats, model: ModelMetadata, takes_scaled: bool = False) -> Floats:
    """Return what a decoder takes, (T, C, h, w) float32, of latents (1, C, T, h, w) of diffusion.

    They lose the model's temporal noise, and its scaling unless the decoder undoes that itself.
    """
    z = remove_temporal_noise(latents, model.temporal_noise)[0].transpose(1, 0, 2, 3)
    return z if takes_scaled else np.asarray(z / np.float32(model.scaling_factor))


def decode(
    z: Floats,
    run: Callable[[Mapping[str, NDArray[Any]]], Floats | None],
    chunk: Callable[[], int] = lambda: 1,
) -> Iterator[Floats]:
    """Yield RGB (n, 3, H, W) float32 in about [-1, 1] for `decoder_input` z (T, C, h, w).

    `run` takes it by name, n frames as `chunk` says, and returns their pixels, or None where it
    must be asked again: it may then take another number.
    """
    start, count = 0, len(z)
    while start < count:
        # A session has one size: the last chunk repeats its last frame.
        rows = np.minimum(np.arange(start, start + chunk()), count - 1)
        frames = run({"latent_sample": np.ascontiguousarray(z[rows])})
        if frames is None:
            continue
        done = min(start + len(rows), count)
        yield frames[: done - start]
        start = done


def decode_by(runner: Runner, latents: Floats, manifest: Manifest) -> Iterator[Floats]:
    """Yield the frames of `decode`, made by the decoder that `runner` has loaded."""
    stage = manifest.stage(runner.placement.stage)
    z = decoder_input(latents, manifest.model, stage.takes_scaled_latents)
    return decode(z, runner.try_run, lambda: runner.sizes["frames"])


def preview(latents: Floats, manifest: Manifest, stages: Stages) -> NDArray[np.uint8]:
    """Picture denoised latents (1, C, T, h, w) quickly, (T, H', W', 3) uint8.

    By the bundle's tiny decoder where memory allows it beside the stage that is loaded, else by a
    linear map at half the size; raises RequestError for a bundle with neither.
    """
    if "tiny_decoder" in manifest.stages:
        sizes = decoder_sizes(manifest, latents.shape)
        runner = stages.runner_aside("tiny_decoder", sizes)
        if runner is not None:
            return to_pixels(np.concatenate(list(decode_by(runner, latents, manifest))))
    require_preview(manifest)
    matrix = manifest.latent_to_rgb
    if matrix is None:
        raise RequestError(
            f"{manifest.name} previews by its tiny decoder, which does not fit into memory now: "
            f"leave --preview out, or give more --max-memory"
        )
    return linear_preview(latents, matrix, max(1, manifest.model.vae_downsampling // 2))


def require_preview(manifest: Manifest) -> None:
    """Raise RequestError where a bundle has nothing to preview with."""
    if manifest.latent_to_rgb is None and "tiny_decoder" not in manifest.stages:
        raise RequestError(
            f"{manifest.name} has no tiny decoder and no map for previews: "
            f"build the bundle again, or leave --preview out"
        )
