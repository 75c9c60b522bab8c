"""The pipeline: prompt to tokens to latents to frames.

    TextToVideo.from_bundle("bundle")("a cat DJ at a party", seed=7).save("cat.mp4")

The denoising loop is a generator; progress, preview and cancelling belong to whoever iterates.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.device import Device, candidates
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Timings, Video, check_frames, check_latents
from hummingbird_edge.runtime.sampler import Step, guidance_embedding
from hummingbird_edge.runtime.session import Session, open_session
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
    """`text_encoder`, `unet`, `vae_decoder`, or `done`."""
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

    def add(self, stage: str, started: float) -> float:
        seconds = time.perf_counter() - started
        self.stage_s.setdefault(stage, []).append(seconds)
        return seconds

    def timings(self) -> Timings:
        return Timings(
            load_s=self.load_s,
            text_encoder_s=sum(self.stage_s["text_encoder"]),
            unet_step_s=tuple(self.stage_s["unet"]),
            vae_decoder_s=sum(self.stage_s["vae_decoder"]),
        )


class TextToVideo:
    """A bundle ready to make videos."""

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.facts = bundle.manifest.model
        self.tokenizer = Tokenizer(bundle.path("tokenizer"), self.facts.context_length)
        self.devices: dict[str, str] = {}
        """Stage name to the device that ran it last."""
        self.refusals: dict[str, list[str]] = {}
        """Stage name to why `auto` passed over better devices."""
        self._candidates = candidates(device)
        self._sessions: dict[str, Session] = {}

    @classmethod
    def from_bundle(
        cls, path: str | Path = BUILTIN, device: str = "auto", verify: bool = False
    ) -> "TextToVideo":
        """Open the bundle at `path` (else the built-in one) for `device`.

        `verify` compares every file with its digest even if that was done before. Raises
        BundleError, DeviceError, or RequestError for an unknown device name.
        """
        return cls(Bundle.open(path, verify), device)

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
        initial_noise: Latents | None = None,
        step_noise: Latents | None = None,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Video:
        """Make one video; what is None is the bundle's default (published: 16 frames, 512 x 320).

        `initial_noise` (1, C, T, h, w) and `step_noise` (steps, 1, C, T, h, w) float32 replace the
        noise that `seed` gives. `on_step` hears every U-Net step and stops the work by raising.
        Raises RequestError, DeviceError or GenerationError.
        """
        request = Request.for_model(
            self.bundle.manifest,
            prompt,
            seed,
            frames=frames,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            fps=fps,
        )
        for progress in self.generate(request, initial_noise, step_noise):
            if on_step is not None and progress.stage == "unet":
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
        clock = _Clock()
        context, seconds = self._encode_text(request, clock)
        yield Progress("text_encoder", 1, 1, seconds)
        latents = None
        for progress in self._denoise(request, context, initial_noise, step_noise, clock):
            latents = progress.denoised
            yield progress
        assert latents is not None  # a sampler takes at least one step
        parts: list[NDArray[np.float32]] = []
        for part, progress in self._decode(latents, clock):
            parts.append(part)
            yield progress
        pixels = np.concatenate(parts)
        check_frames(pixels)
        frames = np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)
        frames = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
        settings = {**request.settings(), **self._provenance()}
        if initial_noise is not None or step_noise is not None:
            settings["noise"] = "given"
        video = Video(frames, latents, clock.timings(), request, settings)
        yield Progress("done", 1, 1, clock.timings().total_s, video=video)

    def _encode_text(
        self, request: Request, clock: _Clock
    ) -> tuple[list[NDArray[np.float32]], float]:
        """Return the contexts (1, 77, D) the U-Net needs: the prompt's, and for a model guided by
        a second pass the empty prompt's."""
        prompts = [request.prompt, *([""] if self.facts.guidance_width is None else [])]
        ids = [self.tokens(prompt).ids[None, :] for prompt in prompts]
        session = self._session("text_encoder", clock)
        started = time.perf_counter()
        contexts = [session.run({"input_ids": row}) for row in ids]
        seconds = clock.add("text_encoder", started)
        return contexts, seconds

    def _denoise(
        self,
        request: Request,
        context: list[NDArray[np.float32]],
        initial_noise: Latents | None,
        step_noise: Latents | None,
        clock: _Clock,
    ) -> Iterator[Progress]:
        """Run the sampler, yielding the denoised latents of every step."""
        shape = request.latent_shape(self.bundle.manifest)
        x_t = gaussian_noise(shape, request.seed, 0) if initial_noise is None else initial_noise
        session = self._session("unet", clock)
        for step in self.bundle.manifest.sampler.steps(request.steps):
            started = time.perf_counter()
            output = self._predict(session, request, context, x_t, step)
            noise = (
                gaussian_noise(shape, request.seed, 1 + step.index)
                if step_noise is None
                else step_noise[step.index]
            )
            x_t, denoised = step(x_t, output, noise)
            check_latents(denoised, step.index + 1)
            seconds = clock.add("unet", started)
            yield Progress("unet", step.index + 1, step.count, seconds, denoised)

    def _predict(
        self,
        session: Session,
        request: Request,
        context: list[NDArray[np.float32]],
        x_t: Latents,
        step: Step,
    ) -> Latents:
        """Run the U-Net once, or twice for a model without a guidance embedding."""
        inputs: dict[str, NDArray[Any]] = {
            "sample": x_t,
            "timestep": np.array([step.t], np.int64),
            "fps": np.array([request.fps], np.int64),
        }
        if self.facts.guidance_width is not None:
            embedding = guidance_embedding(request.guidance, self.facts.guidance_width)
            inputs["timestep_cond"] = embedding
            return session.run({**inputs, "encoder_hidden_states": context[0]})
        conditional, unconditional = (
            session.run({**inputs, "encoder_hidden_states": hidden}) for hidden in context
        )
        return unconditional + np.float32(request.guidance) * (conditional - unconditional)

    def _decode(
        self, latents: Latents, clock: _Clock
    ) -> Iterator[tuple[NDArray[np.float32], Progress]]:
        """Yield RGB (n, 3, H, W) float32 in about [-1, 1], chunk by chunk of frames."""
        session = self._session("vae_decoder", clock)
        z = latents[0].transpose(1, 0, 2, 3) / np.float32(self.facts.scaling_factor)
        pixels = z.shape[2] * z.shape[3] * self.facts.vae_downsampling**2
        chunk = max(1, _CHUNK_PIXELS // pixels)
        for start in range(0, len(z), chunk):
            started = time.perf_counter()
            part = session.run({"latent_sample": np.ascontiguousarray(z[start : start + chunk])})
            seconds = clock.add("vae_decoder", started)
            done = min(start + chunk, len(z))
            yield part, Progress("vae_decoder", done, len(z), seconds)

    def _session(self, stage: str, clock: _Clock) -> Session:
        """Return the session of `stage`, loading it on the first candidate that takes it."""
        if stage in self._sessions:
            return self._sessions[stage]
        started = time.perf_counter()
        refusals: list[str] = []
        for device in self._candidates:
            try:
                session = open_session(self.bundle.graph(stage), device)
            except DeviceError as error:
                refusals.append(str(error))
                continue
            self._keep(stage, session, device)
            self.refusals[stage] = refusals
            clock.load_s[stage] = time.perf_counter() - started
            return session
        if len(refusals) == 1:
            raise DeviceError(refusals[0])
        raise DeviceError(f"no device could load {stage}: {'; '.join(refusals)}")

    def _keep(self, stage: str, session: Session, device: Device) -> None:
        """Note where the stage runs; a large bundle's session lives as long as its stage."""
        self.devices[stage] = device.name
        if self.bundle.bytes <= _RESIDENT_BYTES:
            self._sessions[stage] = session

    def _provenance(self) -> dict[str, object]:
        from importlib.metadata import version

        return {
            "model": self.bundle.manifest.name,
            "bundle_sha256": self.bundle.digest,
            "devices": dict(self.devices),
            "version": version("hummingbird-edge"),
        }


def _require_shape(name: str, noise: Latents | None, shape: tuple[int, ...]) -> None:
    if noise is None:
        return
    if noise.shape != shape:
        raise RequestError(f"{name} has shape {noise.shape}, this video needs {shape}")
    if noise.dtype != np.float32 or not np.isfinite(noise).all():
        raise RequestError(f"{name} must be finite float32, got {noise.dtype}: convert it")
