"""Encode clips once for all later stages: of the world, or videos of your own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from hummingbird_edge.distill.curation.curate import KeptClip, read_kept
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.data.frames import TooShortError, read_frames
from hummingbird_edge.distill.recipe import Recipe
from hummingbird_edge.distill.stages.sources import Sources
from hummingbird_edge.distill.stages.vae import read_vae
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import device, in_turn
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import recover

__all__ = ["draw_clips", "encode_curated"]


def draw_clips(sources: Sources, recipe: Recipe, seed: int = 0) -> None:
    """Draw and encode clips of the world, once for all stages; writes RUN/clips.safetensors."""
    path = sources.run / "clips.safetensors"
    with in_turn():
        if not path.exists():
            vae = read_vae(sources.run, recipe.teacher.vae)
            Clips.drawn(vae, recipe.world, recipe.clips, seed).write(path)


def encode_curated(
    run: Path,
    videos: Path,
    model_path: Path | None = None,
    frames: int | None = None,
    size: tuple[int | None, int | None] = (None, None),
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Path:
    """Encode the videos that `curate_folder` kept in `videos`; returns RUN/clips.safetensors.

    `model_path` names the model whose VAE encodes (the run's teacher without it); its defaults are
    taken for frames and size (width, height) that are None. Raises RequestError for a size that the
    model cannot take, for videos that cannot be read, and where the run has clips already.
    """
    output = run / "clips.safetensors"
    if output.exists():
        raise RequestError(f"{output} is there already: choose another RUN, or delete it")
    recover(run / "teacher")
    if model_path is None and not (run / "teacher").exists():
        raise RequestError(f"{run} has no teacher whose VAE encodes: name a model with --model")
    kept = read_kept(videos)
    model = Model.read(model_path or run / "teacher").frozen(device())
    config, defaults = model.config, model.config.defaults
    count = defaults.frames if frames is None else frames
    width = defaults.width if size[0] is None else size[0]
    height = defaults.height if size[1] is None else size[1]
    multiple = config.vae.downsampling * config.unet.downsampling
    if min(count, width, height) < 1 or width % multiple or height % multiple:
        raise RequestError(
            f"{count} frames of {width}x{height} do not fit the model: it takes 1 frame or more, "
            f"and sizes that divide by {multiple}"
        )

    def batches() -> Iterator[torch.Tensor]:
        for done, clip in enumerate(kept, 1):
            yield _read_clip(clip, count, width, height)
            report(done, len(kept))

    captions, factor = [clip.captions for clip in kept], config.vae.scaling_factor
    Clips.encoded(model.vae, batches(), captions, factor).write(output)
    return output


def _read_clip(clip: KeptClip, count: int, width: int, height: int) -> torch.Tensor:
    """Read a clip as (1, T, 3, H, W) float32 in [0, 1]; raises RequestError."""
    try:
        frames = read_frames(clip.file, count, width, height, clip.part)
    except TooShortError as error:
        raise RequestError(f"{clip.file} has {error}: choose fewer --frames") from error
    except ValueError as error:
        raise RequestError(f"{clip.file} cannot be read: {error}; curate again") from error
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
