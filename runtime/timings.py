"""How long the parts of a video took."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hummingbird_edge.runtime.placement.runner import Runner

__all__ = ["Stopwatch", "Timings"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent; loading is kept apart from computing."""

    load_s: Mapping[str, float]
    """Stage name to the seconds its session took to make."""
    text_encoder_s: float
    unet_step_s: tuple[float, ...]
    """One entry per sampling step that was taken; a resumed video has fewer."""
    vae_decoder_s: float
    """Of whichever decoder ran."""

    @property
    def total_s(self) -> float:
        """Everything together."""
        computing = self.text_encoder_s + sum(self.unet_step_s) + self.vae_decoder_s
        return sum(self.load_s.values()) + computing

    def __str__(self) -> str:
        steps = self.unet_step_s
        mean = sum(steps) / max(1, len(steps))
        return (
            f"load {sum(self.load_s.values()):.2f} s, text {self.text_encoder_s:.2f} s, "
            f"U-Net {len(steps)} x {mean:.2f} s, "
            f"VAE {self.vae_decoder_s:.2f} s, total {self.total_s:.2f} s"
        )

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "load_s": dict(self.load_s),
            "text_encoder_s": self.text_encoder_s,
            "unet_step_s": self.unet_step_s,
            "vae_decoder_s": self.vae_decoder_s,
            "total_s": self.total_s,
        }


@dataclass(slots=True)
class Stopwatch:
    """Takes the times of one video, part by part."""

    load_s: dict[str, float] = field(default_factory=dict)
    parts_s: dict[str, list[float]] = field(default_factory=dict)
    started: float = 0.0

    def start(self, runner: Runner) -> None:
        """Start timing a part; what `runner` has spent loading so far is counted as loading."""
        self._add_load(runner)
        self.started = time.perf_counter()

    def stop(self, runner: Runner) -> float:
        """Return the seconds since `start`, less those in which `runner` was loading."""
        stage, seconds = runner.placement.stage, time.perf_counter() - self.started
        seconds -= self._add_load(runner)
        self.parts_s.setdefault(stage, []).append(seconds)
        return seconds

    def _add_load(self, runner: Runner) -> float:
        stage, seconds = runner.placement.stage, runner.take_load_s()
        if seconds:
            self.load_s[stage] = self.load_s.get(stage, 0.0) + seconds
        return seconds

    def timings(self, decoder: str) -> Timings:
        """Return the times of a video that the stage `decoder` decoded."""
        return Timings(
            load_s=self.load_s,
            text_encoder_s=sum(self.parts_s.get("text_encoder", ())),
            unet_step_s=tuple(self.parts_s.get("unet", ())),
            vae_decoder_s=sum(self.parts_s[decoder]),
        )
