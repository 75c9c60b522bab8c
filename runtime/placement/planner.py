"""Choose how each stage runs: what the user requested, what was measured, what memory allows."""

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import Manifest
from hummingbird_edge.runtime.devices.backend import Backend, backends, parse_by_stage
from hummingbird_edge.runtime.devices.cpu import low_power_threads
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.tiles import Tiles
from hummingbird_edge.runtime.errors import DeviceError, RequestError
from hummingbird_edge.runtime.placement.limits import machine_bytes
from hummingbird_edge.runtime.placement.memory import readable, stage_bytes
from hummingbird_edge.runtime.placement.plan import Placement, Reason, Sizes, fitting, min_bytes
from hummingbird_edge.runtime.placement.promise import stage_flops
from hummingbird_edge.runtime.placement.tuning import recall, recall_leanest

__all__ = ["Plan", "Planner", "decoder_sizes", "stage_sizes"]

_CHUNK_PIXELS = 512 * 320
"""Pixels decoded at once: one full-size frame, or many small ones."""
_QUICK_FLOPS = 1e11
"""Of one run of every stage, a second on two slow cores: OpenVINO compiles for longer than that."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The placements to try for each stage of a video, the best first."""

    placements: Mapping[str, list[Placement]]
    passed_over: Mapping[str, list[str]]
    """Stage to why better placements are not among them."""
    note: str = ""
    """What the user should know of the whole."""


class Planner:
    """Plans the stages of one bundle for what its user requested."""

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        precision: str = "auto",
        max_memory: int | None = None,
        low_power: bool = False,
    ) -> None:
        """Refuse at once what cannot be had; raises RequestError or DeviceError.

        `device` and `precision` are one name, or one name per stage (`unet=dml,vae=cpu`).
        `low_power` is fewer threads, and for `auto` the backends that used the least energy.
        """
        self.threads = low_power_threads() if low_power else None
        """At most on the CPU; None for as many as engines take."""
        self.max_memory = max_memory
        """Bytes that the process may take; None for what the machine has."""
        self.cache = CompileCache.of_bundle(bundle.digest)
        """The compiled models of the bundle; None where there can be none."""
        self.room = 0
        """Bytes that the cache can take, as of the last plan."""
        self._bundle = bundle
        self._devices = parse_by_stage("device", device)
        self._precisions = parse_by_stage("precision", precision)
        self._backends: dict[str, list[Backend]] = {}
        self._instead: dict[str, list[str]] = {}
        """Stage to why it does not run as requested."""
        for stage in self._devices:
            self._backends_of(stage)
        self._look_for_room()

    def within(self, max_memory: int) -> "Planner":
        """Return a planner for the same requests and another `max_memory`."""
        other = copy(self)
        other.max_memory = max_memory
        return other

    @property
    def cap(self) -> int:
        """Bytes that the process may take."""
        return self.max_memory or machine_bytes()

    def need(self, placement: Placement) -> int:
        """Return the bytes that a process needs for `placement`."""
        return stage_bytes(placement, self._bundle.manifest.stages, self.room)

    def wanted_bytes(self, sizes: Mapping[str, Sizes]) -> int:
        """Return the bytes of the best placements, whatever there is."""
        is_quick = self._is_quick(sizes)
        first = (
            next(self._placements(stage, axes, None, is_quick)) for stage, axes in sizes.items()
        )
        return max(map(self.need, first))

    def plan(self, sizes: Mapping[str, Sizes], cap: int | None = None) -> Plan:
        """Return the placements to try for each stage, all within `cap` bytes, else within all.

        Raises RequestError with the least that would do.
        """
        cap = self.cap if cap is None else cap
        self._look_for_room()
        measured, leanest = recall(self._bundle, sizes, self.threads), self._leanest(sizes)
        chosen = {
            **{stage: (backend, Reason.MEASURED) for stage, backend in measured.items()},
            **{stage: (backend, Reason.LEANEST) for stage, backend in leanest.items()},
        }
        is_quick = self._is_quick(sizes)
        known = {
            stage: list(self._placements(stage, axes, chosen.get(stage), is_quick))
            for stage, axes in sizes.items()
        }
        fit = {stage: fitting(each, self.need, cap) for stage, each in known.items()}
        if not all(fit.values()):
            names = ", ".join(stage for stage, each in fit.items() if not each)
            least = max(min_bytes(each, self.need) for each in known.values())
            had = (
                readable(cap)
                if self.max_memory
                else f"the {readable(cap)} that this machine or container has free"
            )
            raise RequestError(
                f"{names} cannot run within {had}: give --max-memory {readable(least)} or more, "
                f"fewer frames or a smaller size"
            )
        return Plan(
            fit,
            {name: self._passed_over(name, known[name], fit[name], cap) for name in known},
            self._unmeasured([stage for stage in sizes if stage not in leanest]),
        )

    def _look_for_room(self) -> None:
        self.room = 0 if self.cache is None else self.cache.room()

    def _leanest(self, sizes: Mapping[str, Sizes]) -> dict[str, Backend]:
        return {} if self.threads is None else recall_leanest(self._bundle, sizes, self.threads)

    def _unmeasured(self, stages: Iterable[str]) -> str:
        """Return a sentence where low power has no measurement to choose by; else nothing."""
        names = ", ".join(name for name in stages if self._requested(name)[0] == "auto")
        if self.threads is None or not names:
            return ""
        return (
            f"no energy was measured of {names} at this size, so low power is only fewer threads "
            f"there: hb-run --tune --low-power measures where the system tells joules"
        )

    def _passed_over(
        self, stage: str, known: Iterable[Placement], fit: Iterable[Placement], cap: int
    ) -> list[str]:
        taken = {placement.backend for placement in fit}
        return self._instead.get(stage, []) + [
            f"{each.backend} needs {readable(min_bytes([each], self.need))}, of {readable(cap)}"
            for each in known
            if each.backend not in taken
        ]

    def _is_quick(self, sizes: Mapping[str, Sizes]) -> bool:
        """Tell whether a video is so little work that to compile for it does not pay."""
        stages = self._bundle.manifest.stages
        flops = sum(stage_flops(stages[name], axes) for name, axes in sizes.items())
        return flops < _QUICK_FLOPS

    def _placements(
        self,
        stage: str,
        sizes: Sizes,
        measured: tuple[Backend, Reason] | None,
        is_quick: bool,
    ) -> Iterator[Placement]:
        """Yield the placements of a stage, the best first.

        A measurement, with what it was of, counts where its backend is among those that were
        requested. Where the work `is_quick`, a CPU's engine that compiles comes last.
        """
        entry, known = self._bundle.manifest.stage(stage), self._backends_of(stage)
        device, precision = self._requested(stage)

        def placed(backend: Backend, reason: Reason) -> Placement:
            tiles = self._one_tile(stage, backend, sizes)
            loss = entry.psnr_db if backend.precision is Precision.INT8 else -math.inf
            psnr_db = loss if math.isfinite(loss) else None
            few = replace(backend, threads=self.threads)
            return Placement(stage, entry.kind, few, sizes, reason, tiles, psnr_db=psnr_db)

        if device != "auto":
            yield from (placed(backend, Reason.REQUESTED) for backend in known)
            return
        best = None if measured is None else measured[0]
        if measured is not None and precision in ("auto", measured[0].precision):
            yield placed(*measured)
        if is_quick:
            known = sorted(known, key=lambda backend: backend.device.compiles_for_cpu)
        yield from (placed(backend, Reason.FIRST) for backend in known if backend != best)

    def _requested(self, stage: str) -> tuple[str, str]:
        """Return device and precision; a tiny decoder runs where the VAE was to run."""
        decides = "vae_decoder" if stage == "tiny_decoder" else stage
        return self._devices[decides], self._precisions[decides]

    def _backends_of(self, stage: str) -> list[Backend]:
        if stage not in self._backends:
            device, precision = self._requested(stage)
            known = self._bundle.manifest.stages.get(stage)
            graphs = () if known is None else known.trusted
            if known is not None and precision != "auto":
                graphs = known.precisions
            try:
                self._backends[stage] = backends(stage, device, precision, graphs)
            except DeviceError as error:
                if stage != "tiny_decoder":
                    raise
                self._instead[stage] = [str(error).partition(": ")[0]]
                # Few bundles have it in more than one precision, and it is a hundredth of the work.
                self._backends[stage] = backends(stage, device, "auto", graphs)
        return self._backends[stage]

    def _one_tile(self, stage: str, backend: Backend, sizes: Sizes) -> Tiles | None:
        """Return a frame as one tile where the bundle can decode by tiles."""
        tail = self._bundle.manifest.stages.get(f"{stage}_tail")
        if tail is None or backend.graph not in tail.precisions:
            return None
        height, width = sizes["height"], sizes["width"]
        return Tiles(height, width, height, width)


def stage_sizes(
    manifest: Manifest, latent_shape: tuple[int, ...], decoder: str
) -> dict[str, Sizes]:
    """Return the sizes of the free axes of each stage that makes a video.

    `latent_shape` is (1, C, T, h, w), `decoder` the stage that decodes.
    """
    return {
        "text_encoder": {"batch": 1},
        "unet": dict(zip(("frames", "height", "width"), latent_shape[2:], strict=True)),
        decoder: decoder_sizes(manifest, latent_shape),
    }


def decoder_sizes(manifest: Manifest, latent_shape: tuple[int, ...]) -> Sizes:
    """Return how much of latents of shape (1, C, T, h, w) is decoded at once."""
    frames, height, width = latent_shape[2:]
    pixels = height * width * manifest.model.vae_downsampling**2
    return {
        "frames": min(frames, max(1, _CHUNK_PIXELS // pixels)),
        "height": height,
        "width": width,
    }
