"""Calibration: what the networks' activations are like on real trajectories.

Two passes over trajectories, each a run of the whole sampler: the first measures the ranges of all
activations, the second, on the first trajectory alone, the loss of every layer. Only sums and
extremes of a run are kept. Progress is recorded after every trajectory, so an interrupted
calibration resumes. For float16 the first trajectory also shows which values are too large.
"""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hummingbird_edge.quantize.layers import find_layers
from hummingbird_edge.quantize.peaks import Peaks, add_peaks
from hummingbird_edge.quantize.ranges import Ranges, observe
from hummingbird_edge.quantize.sensitivity import Noise, add_twins
from hummingbird_edge.quantize.trajectory import Run, decode_frames, sample_latents
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.packages import import_onnxruntime
from hummingbird_edge.runtime.devices.resident import return_freed
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.onnxruntime import EXACT_INT8
from hummingbird_edge.runtime.errors import device_error
from hummingbird_edge.runtime.files import cache_directory
from hummingbird_edge.runtime.request import Request

__all__ = ["PROMPTS", "Calibration", "calibrate"]

PROMPTS = Path(__file__).parent / "prompts.txt"
"""For a model of whatever a camera sees; others need their own."""

_CPU = Backend.parse("cpu")
_ERRORS_ONLY = 3
_SHORT = 4
"""Frames; at full size decoding one is two fifths of a step of as many."""
_FORM = 3
"""Counts changes of what is recorded."""


@dataclass
class Calibration:
    """Ranges, peaks and quantization noise, by stage."""

    ranges: dict[str, Ranges] = field(default_factory=dict)
    peaks: dict[str, Peaks] = field(default_factory=dict)
    """Of the first trajectory, where they were asked for."""
    noise: dict[str, Noise] = field(default_factory=dict)
    done: int = 0
    """Trajectories whose ranges are in."""

    def save(self, path: Path) -> None:
        """Write it atomically to `path`, an .npz file; raises OSError."""
        arrays: dict[str, Any] = {"done": np.array(self.done)}
        for stage, ranges in self.ranges.items():
            arrays |= {f"ranges/{stage}/{n}": rows for n, rows in ranges.arrays().items()}
        for stage, peaks in self.peaks.items():
            arrays |= {f"peaks/{stage}/{name}": np.array(p) for name, p in peaks.largest.items()}
        for stage, noise in self.noise.items():
            arrays |= {f"noise/{stage}/{name}": sums for name, sums in noise.sums.items()}
        partial = path.with_suffix(f".{os.getpid()}.npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, **arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote; an empty calibration if it is missing or damaged."""
        found = cls()
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                for key in arrays.files:
                    if key == "done":
                        found.done = int(arrays[key])
                        continue
                    kind, stage, name = key.split("/", 2)
                    if kind == "ranges":
                        extremes = found.ranges.setdefault(stage, Ranges()).extremes
                        extremes[name] = arrays[key][0], arrays[key][1]
                    elif kind == "peaks":
                        peaks = found.peaks.setdefault(stage, Peaks())
                        peaks.largest[name] = float(arrays[key])
                    else:
                        found.noise.setdefault(stage, Noise()).sums[name] = arrays[key]
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            return cls()
        return found


class _Collector(Protocol):
    def add(self, names: Sequence[str], outputs: Sequence[NDArray[Any]]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Both:
    """Two collectors of one graph's further outputs: those of the first come first."""

    first: _Collector
    names: Sequence[str]
    """Of the first, an output each."""
    second: _Collector

    def add(self, names: Sequence[str], outputs: Sequence[NDArray[Any]]) -> None:
        count = len(self.names)
        self.first.add(self.names, outputs[:count])
        self.second.add(names, outputs[count:])


class _Watched:
    """A network on ONNX Runtime's CPU whose further outputs are collected.

    Nodes run in the order of the graph, which measures each activation right after it is computed.
    In ONNX Runtime's default order the measurements would wait until the end of the graph and keep
    all activations alive: more than 14 GB at full size, against 7.4 GB.
    """

    _session: Any = None

    def __init__(
        self, graph: Path, names: Sequence[str], collector: _Collector, weights: Path | None = None
    ) -> None:
        """Load `graph`; it and its `weights` file are deleted when the network is closed."""
        self._files = [graph] if weights is None else [graph, weights]
        onnxruntime = import_onnxruntime()

        return_freed()
        options = onnxruntime.SessionOptions()
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry(EXACT_INT8, "1")
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.enable_mem_reuse = False
        with _as_device_error("load"):
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        return_freed()
        self._wanted = {entry.name for entry in self._session.get_inputs()}
        self._names, self._collector = names, collector

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        fed = {name: value for name, value in inputs.items() if name in self._wanted}
        with _as_device_error("run"):
            first, *more = self._session.run(None, fed)
        self._collector.add(self._names, more)
        return np.asarray(first, np.float32)

    def __del__(self) -> None:
        self._session = None  # Windows removes no file that is mapped
        for path in self._files:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_device_error(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library raises bare exceptions of several kinds
        reason = str(error).strip().partition("\n")[0][:200]
        raise device_error(
            error, f"calibration cannot {what} its graph ({reason}): give --frames or --size less"
        ) from error


def calibrate(
    bundle: Bundle,
    folder: Path,
    plan: Sequence[Request],
    contexts: Mapping[str, NDArray[np.float32]],
    stages: Sequence[str],
    report: Callable[[str], None],
    losses: Sequence[str] | None = None,
    with_peaks: bool = False,
) -> Calibration:
    """Observe `stages`, of `unet` and `vae_decoder`, on all of `plan`.

    `losses` are those of them whose every layer's loss is measured too (all for None), which a
    search needs; `with_peaks` measures the largest value of every node on the first trajectory,
    which float16 needs. `folder` holds a copy
    of the bundle: graphs to be run are written next to its weights and removed again. Raises
    RequestError for values that are not finite.
    """
    record = _record(bundle, plan, stages, with_peaks)
    found = Calibration.load(record)
    if found.done:
        report(f"calibration: {found.done} of {len(plan)} trajectories are known from before")
    networks: dict[str, Run] = {}
    for index in range(found.done, len(plan)):
        if with_peaks and index == 0:
            watched = {s: _with_peaks(folder, s, found) for s in stages}
        else:
            networks = networks or {s: _with_ranges(bundle, folder, s, found) for s in stages}
            watched = networks
        _run(plan[index], bundle, contexts, watched.get)
        del watched
        found.done = index + 1
        _keep(found, record)
        report(f"calibration: {found.done} of {len(plan)} trajectories")
    del networks
    losses = stages if losses is None else losses
    if set(found.noise) != set(losses):
        found.noise = {}

        def twins(stage: str) -> Run | None:
            return _with_twins(bundle, folder, stage, found) if stage in losses else None

        _run(plan[0], bundle, contexts, twins)
        _keep(found, record)
        report("calibration: the loss of every layer is measured")
    return found


def _run(
    trajectory: Request,
    bundle: Bundle,
    contexts: Mapping[str, NDArray[np.float32]],
    network: Callable[[str], Run | None],
) -> None:
    """Run one trajectory and decode its first and last frame, of a longer one its middle too.

    `network` opens the U-Net and, after that is released, the decoder; None is not observed.
    """
    unet = network("unet") or open_session(bundle.graph("unet", "cpu"), _CPU).run
    latents = sample_latents(trajectory, bundle.manifest, unet, contexts)
    del unet
    vae = network("vae_decoder")
    if vae is not None:
        count = latents.shape[2]
        frames = sorted({0, count - 1} if count <= _SHORT else {0, count // 2, count - 1})
        decode_frames(latents, bundle.manifest, vae, frames)


def _for_cpu(bundle: Bundle, folder: Path, stage: str) -> ir.Model:
    """Return a stage's graph for ONNX Runtime's CPU, its activations named as in `model.onnx`.

    Its attention stores no scores, which saves time and memory.
    """
    plain = ir.load(folder / stage / "model.onnx")
    fused = ir.load(folder / stage / bundle.graph(stage, "cpu").name)
    for one, other in zip(find_layers(fused), find_layers(plain), strict=True):
        for value, known in zip(one.sides, other.sides, strict=True):
            value.name = known.name
    return fused


def _with_ranges(bundle: Bundle, folder: Path, stage: str, found: Calibration) -> Run:
    model, path = _for_cpu(bundle, folder, stage), folder / stage / "observed.onnx"
    names = observe(model, find_layers(model))
    ir.save(model, path)
    return _Watched(path, names, found.ranges.setdefault(stage, Ranges()))


def _with_peaks(folder: Path, stage: str, found: Calibration) -> Run:
    """Open `model.onnx`, whose every node is in the float16 graphs, with peaks and ranges."""
    model, path = ir.load(folder / stage / "model.onnx"), folder / stage / "peaks.onnx"
    layers = find_layers(model)
    peaks, ranges = add_peaks(model), observe(model, layers)
    ir.save(model, path)
    first = found.peaks.setdefault(stage, Peaks())
    return _Watched(path, ranges, _Both(first, peaks, found.ranges.setdefault(stage, Ranges())))


def _with_twins(bundle: Bundle, folder: Path, stage: str, found: Calibration) -> Run:
    model, path = _for_cpu(bundle, folder, stage), folder / stage / "twins.onnx"
    weights = path.with_name("twins.onnx_data")
    names = add_twins(model, found.ranges[stage], path, weights.name)
    return _Watched(path, names, found.noise.setdefault(stage, Noise()), weights)


def _keep(found: Calibration, record: Path) -> None:
    # A home that cannot be written costs a calibration that was stopped, nothing else.
    with contextlib.suppress(OSError):
        found.save(record)


def _record(
    bundle: Bundle, plan: Sequence[Request], stages: Sequence[str], with_peaks: bool
) -> Path:
    requests = [asdict(trajectory) for trajectory in plan]
    facts = [_FORM, bundle.digest, requests, list(stages), with_peaks]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return cache_directory("calibration") / f"{key}.npz"
