"""The pipeline: prompt to tokens to latents to frames.

    TextToVideo.from_bundle("bundle")("a cat DJ at a party", seed=7).save("cat.mp4")

Making a video is a generator; progress, preview and cancelling belong to whoever iterates.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.hub import find_bundle
from hummingbird_edge.runtime.decoder import decode_by, preview
from hummingbird_edge.runtime.denoiser import Denoiser
from hummingbird_edge.runtime.encoder import encode
from hummingbird_edge.runtime.noise import Noise
from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.placement.plan import Placement
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.runtime.placement.runner import Runner
from hummingbird_edge.runtime.placement.stages import Stages
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import (
    Denoised,
    Part,
    Progress,
    Video,
    check_latents,
    settings_of,
)
from hummingbird_edge.runtime.sampler import sample
from hummingbird_edge.runtime.timings import Stopwatch

__all__ = ["TextToVideo"]

Floats = NDArray[np.float32]


class TextToVideo:
    """A bundle ready to make videos; `from_bundle` says what the settings mean."""

    def __init__(
        self, bundle: Bundle, planner: Planner, notices: Notices, keep_loaded: bool = True
    ) -> None:
        self.bundle, self.manifest, self.notices = bundle, bundle.manifest, notices
        self.tokenizer = bundle.tokenizer()
        self.stages = Stages(bundle, planner, notices, keep_loaded)

    @classmethod
    def from_bundle(
        cls,
        path: str | Path | Bundle = BUILTIN,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_memory: int | None = None,
        low_power: bool = False,
        verify: bool = False,
        keep_loaded: bool = True,
        notify: Callable[[str], None] | None = None,
    ) -> "TextToVideo":
        """Open the bundle at `path`, or `owner/name` of the Hugging Face hub, or the built-in one.

        `device` and `precision` are one name, or one name per stage (`unet=dml,vae=cpu`).
        `max_memory` limits the process, in bytes: the work is planned for it, or refused.
        `low_power` takes fewer threads and devices that used less energy. `verify` compares every
        file with its digest again. `keep_loaded` keeps a large bundle's stages in memory between
        videos where they take at most half of what is free, or of `max_memory` all. `notify`
        receives notes and warnings; without it, the warnings are Python's. Raises BundleError,
        DeviceError, or RequestError for an unknown name.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.open(find_bundle(path), verify)
        planner = Planner(bundle, device, precision, max_memory, low_power)
        return cls(bundle, planner, Notices.for_user(notify), keep_loaded)

    def __call__(
        self,
        prompt: str,
        *,
        frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        fps: int | None = None,
        seed: int = 7,
        decoder: str = "full",
        initial_noise: Floats | None = None,
        step_noise: Floats | None = None,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Video:
        """Make one video; what is None is the bundle's default (published: 16 frames, 512 x 320).

        `initial_noise` (1, C, T, h, w) and `step_noise` (steps, 1, C, T, h, w) float32 replace the
        noise that `seed` gives. `decoder` is `full`, or `tiny` where the bundle has one. `on_step`
        hears every U-Net step and stops the work by raising.
        Raises RequestError, DeviceError or GenerationError.
        """
        size = {"frames": frames, "width": width, "height": height, "steps": steps, "fps": fps}
        request = Request.for_model(self.manifest, prompt, seed, decoder, guidance=guidance, **size)
        for progress in self.generate(request, initial_noise, step_noise):
            if on_step is not None and progress.denoised is not None:
                on_step(progress)
        assert progress.video is not None  # the last one carries it
        return progress.video

    def generate(
        self,
        request: Request,
        initial_noise: Floats | None = None,
        step_noise: Floats | None = None,
        resume: tuple[int, Floats] | None = None,
        decodes: bool = True,
    ) -> Iterator[Progress]:
        """Make one video, yielding after every part; the last one carries the video.

        `resume` is how many steps were taken and `Progress.latents` after them: sampling goes on
        from there, and after the last step only decoding is left. Without `decodes` that is left
        to another pipeline, and the last one carries `handover`.
        """
        shape, decoder = request.latent_shape(self.manifest), request.decoding_stage
        noise = Noise(shape, request.steps, request.seed, initial_noise, step_noise)
        sizes, taken = request.stage_sizes(self.manifest), resume[0] if resume else 0
        sizes = sizes if taken < request.steps else {decoder: sizes[decoder]}
        if not decodes:
            del sizes[decoder]
        self.stages.plan(sizes, request.steps - taken, request.frames)
        yield Progress("plan", 1, 1, 0.0, promise=self.stages.promise)
        latents, watch = resume[1] if resume else noise.x_T(), Stopwatch()
        if taken < request.steps:
            contexts = yield from self._encode(request.prompt, watch)
            latents = yield from self._denoise(request, contexts, noise, watch, taken, latents)
        if not decodes:
            memory = self.stages.finish(watch.parts_s, watch.load_s)
            denoised = Denoised(latents, watch.timings(decoder), memory)
            yield Progress("done", 1, 1, denoised.timings.total_s, handover=denoised)
            return
        pixels = yield from self._decode(latents, decoder, watch)
        settings = settings_of(request, self.bundle, self.placements, noise.is_given)
        memory = self.stages.finish(watch.parts_s, watch.load_s)
        video = Video.of(pixels, latents, watch.timings(decoder), request, settings, memory)
        yield Progress("done", 1, 1, video.timings.total_s, video=video)

    def _encode(self, prompt: str, watch: Stopwatch) -> Part[list[Floats]]:
        """Return the contexts that guidance needs: without an embedding the empty prompt's too."""
        prompts = [prompt] if self.manifest.model.guidance_width else [prompt, ""]
        runner = self._runner("text_encoder", watch)
        contexts = encode(prompts, self.tokenizer, runner.run, self.notices)
        yield Progress("text_encoder", 1, 1, watch.stop(runner))
        return contexts

    def _denoise(
        self,
        request: Request,
        contexts: list[Floats],
        noise: Noise,
        watch: Stopwatch,
        taken: int,
        x_t: Floats,
    ) -> Part[Floats]:
        """Return the denoised latents of the last step."""
        runner, w_width = self._runner("unet", watch), self.manifest.model.guidance_width
        denoiser = Denoiser(runner.run, contexts, request.guidance, w_width, request.fps)
        steps = sample(denoiser, self.manifest.sampler, request.steps, x_t, noise.of_step, taken)
        for step, x_t, x_0 in steps:
            check_latents(x_0, step.index + 1)
            latents = x_t if step.index + 1 < step.count else x_0
            yield Progress("unet", step.index + 1, step.count, watch.stop(runner), x_0, latents)
            watch.start(runner)
        return latents

    def _decode(self, latents: Floats, stage: str, watch: Stopwatch) -> Part[Floats]:
        """Return RGB (T, 3, H, W) in about [-1, 1], decoded chunk by chunk of frames."""
        runner, parts, done = self._runner(stage, watch), list[Floats](), 0
        for frames in decode_by(runner, latents, self.manifest):
            parts.append(frames)
            done += len(frames)
            yield Progress(stage, done, latents.shape[2], watch.stop(runner))
            watch.start(runner)
        return np.concatenate(parts)

    def _runner(self, stage: str, watch: Stopwatch) -> Runner:
        """Return a stage loaded, and start timing its first part."""
        watch.start(runner := self.stages.runner(stage))
        return runner

    @property
    def placements(self) -> dict[str, Placement]:
        """Stage name to how it ran last."""
        return {stage: outcome.placement for stage, outcome in self.stages.outcomes.items()}

    def preview(self, latents: Floats) -> NDArray[np.uint8]:
        """Picture denoised latents (1, C, T, h, w) quickly, (T, H', W', 3) uint8.

        Raises RequestError for a bundle with neither a tiny decoder nor a map for previews.
        """
        return preview(latents, self.manifest, self.stages)
