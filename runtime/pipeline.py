"""The pipeline: prompt to tokens to latents to frames.

    TextToVideo.from_bundle("bundle")("a cat DJ at a party", seed=7).save("cat.mp4")

The denoising loop is a generator; progress, preview and cancelling belong to whoever iterates.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.denoiser import Denoiser
from hummingbird_edge.runtime.devices.backend import (
    MIN_SHARE,
    Backend,
    Placed,
    backends,
    parse_by_stage,
)
from hummingbird_edge.runtime.engines.compile_cache import compiled_folder
from hummingbird_edge.runtime.engines.tiles import Tiles
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.media.preview import linear_preview
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.placement.memory import machine_bytes, readable, stage_bytes
from hummingbird_edge.runtime.placement.plan import Placement, Sizes, fitting, least_bytes
from hummingbird_edge.runtime.placement.runner import Runner
from hummingbird_edge.runtime.placement.tuning import Measured, recall
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Timings, Video, check_frames, check_latents, to_pixels
from hummingbird_edge.runtime.tokenizer import Tokenizer, Tokens

__all__ = ["Progress", "TextToVideo"]

Latents = NDArray[np.float32]

_RESIDENT_BYTES = 1 << 30
"""Bundles up to this size stay loaded between videos; larger ones are freed stage by stage."""
_CHUNK_PIXELS = 512 * 320
"""Pixels decoded at once: one full-size frame, or many small ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """What a caller hears while a video is made."""

    stage: str
    """`text_encoder`, `unet`, `vae_decoder`, `tiny_decoder`, or `done`."""
    index: int
    """How much of the stage is done, 1 to `count`."""
    count: int
    seconds: float
    """What this part took."""
    denoised: Latents | None = None
    """After a U-Net step, its denoised latents (1, C, T, h, w)."""
    video: Video | None = None
    """The result, when all is done."""


@dataclass
class _Clock:
    """Collects the seconds of one video."""

    load_s: dict[str, float] = field(default_factory=dict)
    stage_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, stage: str, started: float, runner: Runner) -> float:
        """Return the seconds since `started`, less those in which `runner` was loading."""
        seconds = time.perf_counter() - started - self.add_load(stage, runner)
        self.stage_s.setdefault(stage, []).append(seconds)
        return seconds

    def add_load(self, stage: str, runner: Runner) -> float:
        """Return the seconds in which `runner` was loading since it was asked last."""
        seconds = runner.take_load_s()
        if seconds:
            self.load_s[stage] = self.load_s.get(stage, 0.0) + seconds
        return seconds

    def timings(self) -> Timings:
        return Timings(
            load_s=self.load_s,
            text_encoder_s=sum(self.stage_s["text_encoder"]),
            unet_step_s=tuple(self.stage_s["unet"]),
            vae_decoder_s=sum(
                sum(self.stage_s.get(name, ())) for name in ("vae_decoder", "tiny_decoder")
            ),
        )


class TextToVideo:
    """A bundle ready to make videos."""

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        precision: str = "auto",
        notify: Callable[[str], None] = lambda _: None,
        max_memory: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.max_memory = max_memory
        self._notify = notify
        self.facts = bundle.manifest.model
        self.tokenizer = Tokenizer(bundle.path("tokenizer"), self.facts.context_length)
        self.placed: dict[str, Placed] = {}
        """Stage name to how it was run last."""
        self.refusals: dict[str, list[str]] = {}
        """Stage name to why `auto` passed over better devices."""
        self._devices = parse_by_stage("device", device)
        self._precisions = parse_by_stage("precision", precision)
        self._options: dict[str, list[Backend]] = {}
        for stage in self._devices:  # what cannot be had is refused at once
            self._options_of(stage)
        self._measured: dict[str, Measured] = {}
        self._too_large: dict[str, list[str]] = {}
        self._resident = False
        self._runners: dict[str, tuple[list[Placement], Runner]] = {}

    @classmethod
    def from_bundle(
        cls,
        path: str | Path = BUILTIN,
        device: str = "auto",
        verify: bool = False,
        precision: str = "auto",
        notify: Callable[[str], None] = lambda _: None,
        max_memory: int | None = None,
    ) -> "TextToVideo":
        """Open the bundle at `path` (else the built-in one).

        `device` and `precision` are one name, or a name a stage (`unet=dml,vae=cpu`). `verify`
        compares every file with its digest even if that was done before. `notify` hears what takes
        long or goes otherwise than planned. `max_memory` bounds the process, in bytes: the work is
        planned for it, or refused. Raises BundleError, DeviceError, or RequestError for an unknown
        name.
        """
        return cls(Bundle.open(path, verify), device, precision, notify, max_memory)

    @cached_property
    def _cache(self) -> Path | None:
        """Where engines keep what they compile; looked after once, not for every stage."""
        return compiled_folder(self.bundle.digest)

    def _asked(self, stage: str) -> tuple[str, str]:
        """Return device and precision asked for; a tiny decoder runs where the VAE was to run."""
        decides = "vae_decoder" if stage == "tiny_decoder" else stage
        return self._devices[decides], self._precisions[decides]

    def _options_of(self, stage: str) -> list[Backend]:
        """Return the ways that were asked for."""
        if stage not in self._options:
            device, precision = self._asked(stage)
            manifest = self.bundle.manifest
            graphs = (manifest.trusted if precision == "auto" else manifest.precisions)(stage)
            self._options[stage] = backends(stage, device, precision, graphs)
        return self._options[stage]

    @property
    def devices(self) -> dict[str, str]:
        """Stage name to the device that ran it last."""
        return {stage: placed.backend.device.name for stage, placed in self.placed.items()}

    def __call__(
        self,
        prompt: str,
        frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        fps: int | None = None,
        seed: int = 7,
        decoder: str = "full",
        initial_noise: Latents | None = None,
        step_noise: Latents | None = None,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Video:
        """Make one video; what is None is the bundle's default (published: 16 frames, 512 x 320).

        `initial_noise` (1, C, T, h, w) and `step_noise` (steps, 1, C, T, h, w) float32 replace the
        noise that `seed` gives. `decoder` is `full`, or `tiny` where the bundle has one. `on_step`
        hears every U-Net step and stops the work by raising.
        Raises RequestError, DeviceError or GenerationError.
        """
        request = Request.for_model(
            self.bundle.manifest,
            prompt,
            seed,
            decoder,
            frames=frames,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            fps=fps,
        )
        for progress in self.generate(request, initial_noise, step_noise):
            if on_step is not None and progress.denoised is not None:
                on_step(progress)
            if progress.video is not None:
                return progress.video
        raise AssertionError("the generator ends with a video")

    def tokens(self, prompt: str) -> Tokens:
        """Return the ids of `prompt`, and whether it was cut."""
        return self.tokenizer(prompt)

    def generate(
        self,
        request: Request,
        initial_noise: Latents | None = None,
        step_noise: Latents | None = None,
    ) -> Iterator[Progress]:
        """Make one video, yielding after every part; the last one carries the video."""
        shape = request.latent_shape(self.bundle.manifest)
        _require_shape("initial_noise", initial_noise, shape)
        _require_shape("step_noise", step_noise, (request.steps, *shape))
        clock, sizes = _Clock(), self.stage_sizes(request)
        self._measured = recall(self.bundle, sizes)
        plan = self._plan(sizes)
        self._resident = self._fits_at_once(plan)
        context, seconds = self._encode_text(request, plan["text_encoder"], clock)
        yield Progress("text_encoder", 1, 1, seconds)
        latents = None
        noises = initial_noise, step_noise
        for progress in self._denoise(request, context, noises, plan["unet"], clock):
            latents = progress.denoised
            yield progress
        assert latents is not None  # a sampler takes at least one step
        parts: list[NDArray[np.float32]] = []
        stage = request.decoding_stage
        for part, progress in self._decode(latents, stage, plan[stage], clock):
            parts.append(part)
            yield progress
        pixels = np.concatenate(parts)
        check_frames(pixels)
        frames = to_pixels(pixels)
        settings = {**request.settings(), **self._provenance()}
        if initial_noise is not None or step_noise is not None:
            settings["noise"] = "given"
        video = Video(frames, latents, clock.timings(), request, settings)
        yield Progress("done", 1, 1, clock.timings().total_s, video=video)

    def _encode_text(
        self, request: Request, ways: list[Placement], clock: _Clock
    ) -> tuple[list[NDArray[np.float32]], float]:
        """Return the contexts (1, 77, D) the U-Net needs: the prompt's, and for a model guided by
        a second pass the empty prompt's."""
        prompts = [request.prompt, *([""] if self.facts.guidance_width is None else [])]
        ids = [self.tokens(prompt).ids[None, :] for prompt in prompts]
        runner = self._runner("text_encoder", ways, clock)
        started = time.perf_counter()
        contexts = [runner.run({"input_ids": row}) for row in ids]
        seconds = clock.add("text_encoder", started, runner)
        self._settle("text_encoder", runner)
        return contexts, seconds

    def _denoise(
        self,
        request: Request,
        context: list[NDArray[np.float32]],
        noises: tuple[Latents | None, Latents | None],
        ways: list[Placement],
        clock: _Clock,
    ) -> Iterator[Progress]:
        """Run the sampler, yielding the denoised latents of every step."""
        initial_noise, step_noise = noises
        shape = request.latent_shape(self.bundle.manifest)
        x_t = gaussian_noise(shape, request.seed, 0) if initial_noise is None else initial_noise
        runner = self._runner("unet", ways, clock)
        denoiser = Denoiser(
            runner.run, context, request.guidance, self.facts.guidance_width, request.fps
        )
        for step in self.bundle.manifest.sampler.steps(request.steps):
            started = time.perf_counter()
            output = denoiser(x_t, step.t)
            noise = (
                gaussian_noise(shape, request.seed, 1 + step.index)
                if step_noise is None
                else step_noise[step.index]
            )
            x_t, denoised = step(x_t, output, noise)
            check_latents(denoised, step.index + 1)
            seconds = clock.add("unet", started, runner)
            self._settle("unet", runner)
            yield Progress("unet", step.index + 1, step.count, seconds, denoised)

    def _decode(
        self, latents: Latents, stage: str, ways: list[Placement], clock: _Clock
    ) -> Iterator[tuple[NDArray[np.float32], Progress]]:
        """Yield RGB (n, 3, H, W) float32 in about [-1, 1], chunk by chunk of frames."""
        z = latents[0].transpose(1, 0, 2, 3)
        if stage == "vae_decoder":  # the tiny one takes the latents of diffusion as they are
            z = z / np.float32(self.facts.scaling_factor)
        runner = self._runner(stage, ways, clock)
        start, count, started = 0, len(z), time.perf_counter()
        while start < count:
            chunk = runner.sizes["frames"]
            # A session has one size: the last chunk repeats its last frame.
            rows = np.minimum(np.arange(start, start + chunk), count - 1)
            part = runner.try_run({"latent_sample": np.ascontiguousarray(z[rows])})
            if part is None:
                continue
            seconds = clock.add(stage, started, runner)
            self._settle(stage, runner)
            done = min(start + chunk, count)
            yield part[: done - start], Progress(stage, done, count, seconds)
            start, started = done, time.perf_counter()

    def stage_sizes(self, request: Request) -> dict[str, dict[str, int]]:
        """Return the sizes of each stage's free axes, for the stages that `request` runs."""
        shape = request.latent_shape(self.bundle.manifest)
        return {
            "text_encoder": {"batch": 1},
            "unet": dict(zip(("frames", "height", "width"), shape[2:], strict=True)),
            request.decoding_stage: self._decoder_sizes(shape),
        }

    def _decoder_sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Return how much of latents of `shape` (1, C, T, h, w) is decoded at once."""
        frames, height, width = shape[2:]
        pixels = height * width * self.facts.vae_downsampling**2
        chunk = min(frames, max(1, _CHUNK_PIXELS // pixels))
        return {"frames": chunk, "height": height, "width": width}

    def _fits_at_once(self, plan: Mapping[str, list[Placement]]) -> bool:
        """Tell whether all stages may stay loaded between videos: a large bundle's do not."""
        if self.bundle.bytes > _RESIDENT_BYTES:
            return False
        needs = (self._need(ways[0]) for ways in plan.values())
        return self.max_memory is None or sum(needs) <= self.max_memory

    def preview(self, latents: Latents) -> NDArray[np.uint8]:
        """Picture denoised latents (1, C, T, h, w) quickly, (T, H', W', 3) uint8.

        By the bundle's tiny decoder, else by a linear map at half the size; raises RequestError
        for a bundle with neither.
        """
        if "tiny_decoder" in self.bundle.manifest.stages:
            stage = "tiny_decoder"
            ways = self._plan({stage: self._decoder_sizes(latents.shape)})[stage]
            decoded = self._decode(latents, stage, ways, _Clock())
            parts = [part for part, _ in decoded]
            return to_pixels(np.concatenate(parts))
        matrix = self.bundle.manifest.latent_to_rgb()
        if matrix is None:
            raise RequestError(
                f"{self.bundle.manifest.name} has no tiny decoder and no map for previews: "
                f"build the bundle again"
            )
        return linear_preview(latents, matrix, self.facts.vae_downsampling // 2)

    def _plan(self, sizes: Mapping[str, Sizes]) -> dict[str, list[Placement]]:
        """Return the ways to try for each stage, all within the cap.

        Raises RequestError with the least that would do.
        """
        ways = {stage: list(self._ways(stage, axes)) for stage, axes in sizes.items()}
        cap = self.max_memory or machine_bytes()
        plan = {stage: fitting(known, self._need, cap) for stage, known in ways.items()}
        if not all(plan.values()):
            names = ", ".join(stage for stage, fit in plan.items() if not fit)
            least = max(least_bytes(known, self._need) for stage, known in ways.items())
            had = readable(cap) if self.max_memory else f"the {readable(cap)} of this machine"
            raise RequestError(
                f"{names} cannot run within {had}: give --max-memory {readable(least)} or more, "
                f"fewer frames or a smaller size"
            )
        for stage, known in ways.items():
            taken = {way.backend for way in plan[stage]}
            self._too_large[stage] = [
                f"{way.backend} needs {readable(least_bytes([way], self._need))}, "
                f"of {readable(cap)}"
                for way in known
                if way.backend not in taken
            ]
        return plan

    def _need(self, way: Placement) -> int:
        return stage_bytes(way, self.bundle.manifest.stages)

    def _ways(self, stage: str, sizes: Sizes) -> Iterator[Placement]:
        """Yield the ways to try for `stage`, the best first.

        A measurement counts where it is among the ways that were asked for.
        """
        device, precision = self._asked(stage)
        known, measured = self._options_of(stage), self._measured.get(stage)

        def way(backend: Backend, why: str) -> Placement:
            return Placement(stage, backend, why, sizes, self._one_tile(stage, backend, sizes))

        if device != "auto":
            yield from (way(backend, "asked for") for backend in known)
            return
        if measured is not None and precision in ("auto", measured.precision):
            yield way(measured.backend, "measured")
        yield from (way(backend, "first that works") for backend in known)

    def _one_tile(self, stage: str, backend: Backend, sizes: Sizes) -> Tiles | None:
        """Return a frame as one tile where the bundle can decode by tiles."""
        manifest = self.bundle.manifest
        has_halves = backend.graph in manifest.precisions("vae_decoder_tail")
        if stage != "vae_decoder" or manifest.tail is None or not has_halves:
            return None
        height, width = sizes["height"], sizes["width"]
        return Tiles(height, width, height, width)

    def _runner(self, stage: str, ways: list[Placement], clock: _Clock) -> Runner:
        """Return `stage` loaded: kept from the last video where the plan is the same."""
        known, runner = self._runners.pop(stage, ([], None))
        if runner is None or known != ways or not runner.is_open:
            del runner  # before the next is loaded
            if not self._resident:
                self._runners.clear()
            runner = Runner(self.bundle, stage, ways, self._cache, self._notify)
            clock.add_load(stage, runner)
        self._settle(stage, runner)
        if self._resident:
            self._runners[stage] = ways, runner
        return runner

    def _settle(self, stage: str, runner: Runner) -> None:
        """Remember how a stage ran: some engines know it only after a run."""
        before, now = self.placed.get(stage), runner.placed
        self.placed[stage] = now
        self.refusals[stage] = [*self._too_large.get(stage, ()), *runner.refusals]
        if now.share < MIN_SHARE and now != before:
            self._notify(
                f"only {100 * now.share:.0f} % of {stage} ran on {now.backend.device.name}, "
                f"the rest on the CPU"
            )

    def _provenance(self) -> dict[str, object]:
        from importlib.metadata import version

        return {
            "model": self.bundle.manifest.name,
            "bundle_sha256": self.bundle.digest,
            "devices": self.devices,
            "precisions": {name: how.backend.precision for name, how in self.placed.items()},
            "version": version("hummingbird-edge"),
        }


def _require_shape(name: str, noise: Latents | None, shape: tuple[int, ...]) -> None:
    if noise is None:
        return
    if noise.shape != shape:
        raise RequestError(f"{name} has shape {noise.shape}, this video needs {shape}")
    if noise.dtype != np.float32 or not np.isfinite(noise).all():
        raise RequestError(f"{name} must be finite float32, got {noise.dtype}: convert it")
