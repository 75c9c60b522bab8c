"""How long the parts of a video took, and how much energy."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hummingbird_edge.runtime.devices.energy import EnergyMeter, find_meter
from hummingbird_edge.runtime.placement.runner import Runner

__all__ = ["Energy", "Stopwatch", "Timings"]


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules used, None where the system does not tell; `devices.energy` says what is counted."""

    text_encoder_j: float | None = None
    unet_j: float | None = None
    """Of all sampling steps that were taken."""
    vae_decoder_j: float | None = None
    """Of whichever decoder ran."""
    total_j: float | None = None
    """From the first part to the last, with loading and all between parts."""
    source: str | None = None
    """`packages` or `battery`."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "text_encoder_j": self.text_encoder_j,
            "unet_j": self.unet_j,
            "vae_decoder_j": self.vae_decoder_j,
            "total_j": self.total_j,
            "joules_from": self.source,
        }


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
    energy: Energy = field(default_factory=Energy)

    @property
    def total_s(self) -> float:
        """Everything together."""
        computing = self.text_encoder_s + sum(self.unet_step_s) + self.vae_decoder_s
        return sum(self.load_s.values()) + computing

    def with_decoding(self, decoding: "Timings") -> "Timings":
        """Return these with what decoding took elsewhere; whose the joules are nobody can tell."""
        load_s = {**self.load_s, **decoding.load_s}
        return replace(self, load_s=load_s, vae_decoder_s=decoding.vae_decoder_s, energy=Energy())

    def __str__(self) -> str:
        steps = self.unet_step_s
        mean = sum(steps) / max(1, len(steps))
        joules = self.energy.total_j
        energy = "" if joules is None else f", {joules:.3g} J"
        return (
            f"load {sum(self.load_s.values()):.2f} s, text {self.text_encoder_s:.2f} s, "
            f"U-Net {len(steps)} x {mean:.2f} s, "
            f"VAE {self.vae_decoder_s:.2f} s, total {self.total_s:.2f} s{energy}"
        )

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "load_s": dict(self.load_s),
            "text_encoder_s": self.text_encoder_s,
            "unet_step_s": self.unet_step_s,
            "vae_decoder_s": self.vae_decoder_s,
            "total_s": self.total_s,
            **self.energy.as_dict(),
        }


@dataclass(slots=True)
class Stopwatch:
    """Takes the times and the energy of one video, part by part, from when it is made."""

    load_s: dict[str, float] = field(default_factory=dict)
    parts_s: dict[str, list[float]] = field(default_factory=dict)
    started: float = 0.0
    meter: EnergyMeter = field(default_factory=find_meter)
    parts_j: dict[str, list[float | None]] = field(default_factory=dict)
    started_j: float | None = None
    began: float = field(default_factory=time.perf_counter)
    covers_all: bool = True
    """Whether the meter counts what every stage so far ran on."""

    def start(self, runner: Runner) -> None:
        """Start timing a part; what `runner` has spent loading so far is counted as loading."""
        self._add_load(runner)
        self.started_j = self.meter.read()
        self.started = time.perf_counter()

    def stop(self, runner: Runner) -> float:
        """Return the seconds since `start`, less those in which `runner` was loading."""
        stage, seconds = runner.placement.stage, time.perf_counter() - self.started
        seconds -= self._add_load(runner)
        self.parts_s.setdefault(stage, []).append(seconds)
        self.parts_j.setdefault(stage, []).append(self._joules(runner))
        return seconds

    def _joules(self, runner: Runner) -> float | None:
        """Return the joules since `start`, those of loading another placement among them."""
        now, is_covered = self.meter.read(), self.meter.covers(runner.placement.backend.device)
        self.covers_all = self.covers_all and is_covered
        if now is None or self.started_j is None or not is_covered:
            return None
        return now - self.started_j

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
            vae_decoder_s=sum(self.parts_s.get(decoder, ())),
            energy=self._energy(decoder),
        )

    def _energy(self, decoder: str) -> Energy:
        if not self.meter.source:
            return Energy()
        total_j = self.meter.read() if self.covers_all else None
        return Energy(
            text_encoder_j=self._stage_joules("text_encoder"),
            unet_j=self._stage_joules("unet"),
            vae_decoder_j=self._stage_joules(decoder),
            total_j=self.meter.told(total_j, time.perf_counter() - self.began),
            source=self.meter.source,
        )

    def _stage_joules(self, stage: str) -> float | None:
        """Return the joules of all parts of a stage; None where one is unknown, or all too few."""
        parts = self.parts_j.get(stage, [])
        known = [joules for joules in parts if joules is not None]
        if len(known) < len(parts) or not known:
            return None
        return self.meter.told(sum(known), sum(self.parts_s[stage]))
