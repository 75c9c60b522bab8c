"""Workers on a cluster of Ray: an actor for each device of each node.

Ray Core's actors, each bound to its node and never restarted by Ray: when one dies its task goes
to whichever worker is free, here or elsewhere. Videos come back through the object store; nothing
is written but by the command, so each is written once.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.cli.batch.node import Node, Piece
from hummingbird_edge.runtime.cli.batch.worker import Answer, Cores, Settings, Task, WorkerEnded
from hummingbird_edge.runtime.cli.ray_cluster import connect
from hummingbird_edge.runtime.command import note
from hummingbird_edge.runtime.errors import DeviceError, OutputError
from hummingbird_edge.runtime.files import atomic_path

__all__ = ["Cluster", "RayWorker"]

_PIECE_BYTES = 64 << 20
_LOOK_S = 1.0
"""Between two looks at the nodes; each asks the head of the cluster."""
_PATIENCE_S = 30.0
"""Until somebody who waits for a node hears of it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an actor runs, and what of the node it takes."""

    node: str
    """Ray's id of it."""
    name: str
    """For people, with the node's address."""
    device: str
    cpus: float
    """Whole from 1 on, as Ray wants it."""
    gpus: float
    cores: Cores


class Cluster:
    """A cluster that this process is connected to."""

    def __init__(self, bundle: Bundle, settings: Settings, devices: Sequence[str]) -> None:
        self._bundle, self._settings, self._devices = bundle, settings, devices
        self._places: dict[str, list[_Place]] = {}
        """By node, of all that were ever there."""
        self._found: dict[str, Callable[[], RayWorker]] = {}
        self._next_look = 0.0
        self._lock = threading.Lock()

    @classmethod
    def connect(
        cls, address: str, bundle: Bundle, settings: Settings, devices: Sequence[str]
    ) -> "Cluster":
        """Connect to a cluster, or with `local` start one; raises DeviceError, RequestError."""
        connect(address)
        return cls(bundle, settings, devices)

    def places(self) -> dict[str, Callable[[], "RayWorker"]]:
        """Return a place for each device of each node that has processors, as seen a second ago."""
        if time.monotonic() >= self._next_look:
            self._found = self._look()
            self._next_look = time.monotonic() + _LOOK_S
        return self._found

    def _look(self) -> dict[str, Callable[[], "RayWorker"]]:
        import ray

        try:
            nodes = ray.nodes()
        except Exception as error:  # whatever the lost connection raises
            raise DeviceError(
                f"the cluster cannot be reached any more ({type(error).__name__}): run the same "
                f"command again when it is back"
            ) from error
        found = dict[str, Callable[[], RayWorker]]()
        for node in nodes:
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1:
                if node["NodeID"] not in self._places:
                    self._places[node["NodeID"]] = self._of_node(node)
                for place in self._places[node["NodeID"]]:
                    found[place.name] = partial(RayWorker, self, place)
        return found

    def _of_node(self, node: dict[str, Any]) -> list[_Place]:
        """Share a node's resources among its devices, once for each of its GPUs."""
        resources, name = node["Resources"], f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        gpus = int(resources.get("GPU", 0))
        devices = [*self._devices] * max(1, gpus)
        cpus = resources["CPU"] / len(devices)
        cores = max(1, int(cpus))
        # Nodes may be parts of one machine, so that each worker gets cores of its own.
        first = sum(place.cores.count for places in self._places.values() for place in places)
        return [
            _Place(
                node["NodeID"],
                f"node {name} {device} {number + 1}",
                device,
                int(cpus) or cpus,
                gpus / len(devices),
                Cores(first + number * cores, cores),
            )
            for number, device in enumerate(devices)
        ]

    def actor(self, place: _Place) -> Any:
        """Start an actor at a place; returns its handle, whether or not it will run."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(place.node, soft=False)
        kind = ray.remote(num_cpus=place.cpus, num_gpus=place.gpus, max_restarts=0)(Node)
        kind = kind.options(scheduling_strategy=strategy)
        return kind.remote(self._settings, place.device, place.cores)

    def pieces(self) -> list[Piece]:
        """Return the bundle in the object store, put there when a node first lacks it.

        Raises DeviceError where the store cannot hold it.
        """
        from ray.exceptions import RayError

        with self._lock:
            try:
                return self._pieces
            except RayError as error:
                raise DeviceError(
                    f"the bundle cannot be put into the cluster's object store "
                    f"({_last_line(error)}): give the store more memory and disk, and run the same "
                    f"command again"
                ) from error

    @cached_property
    def _pieces(self) -> list[Piece]:
        import ray

        names = [MANIFEST, *self._bundle.manifest.files]
        return [
            (name, ray.put(piece))
            for name in names
            for piece in _read_pieces(self._bundle.path(name))
        ]


class RayWorker:
    """An actor; implements `Worker`."""

    def __init__(self, cluster: Cluster, place: _Place) -> None:
        self._cluster, self._name = cluster, place.name
        self._actor = cluster.actor(place)

    def start(self) -> None:
        """Wait until its bundle is open; raises WorkerEnded or DeviceError."""
        if not self._get(self._started(self._actor.prepare.remote())):
            self._get(self._actor.place.remote(self._cluster.pieces()))
        self._get(self._actor.load.remote())

    def make(self, task: Task) -> Answer:
        """Make a video; raises WorkerEnded, DeviceError where the node's disk is full, OutputError.

        The last where it cannot be written here.
        """
        answer, content = self._get(self._actor.make.remote(task.request))
        if not answer.code:
            try:
                with atomic_path(task.path) as partial:
                    partial.write_bytes(content)
            except OSError as error:
                raise OutputError(
                    f"{task.path} cannot be written ({error.strerror or error}): free some space "
                    f"and run the same command again"
                ) from error
        assert isinstance(answer, Answer)
        return answer

    def _started(self, reference: Any) -> Any:
        """Return what an actor's first call promised; say so where it does not start for long."""
        import ray

        if not ray.wait([reference], timeout=_PATIENCE_S)[0]:
            note(f"{self._name} has no processors to spare yet: waiting for them")
        return reference

    def _get(self, reference: Any) -> Any:
        """Return what a call returns; raises DeviceError where it fails, WorkerEnded."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise DeviceError(f"{self._name}: {_last_line(error.cause)}") from error
        except ActorUnavailableError as error:  # if it comes back, `close` ends it
            raise WorkerEnded(f"the worker of {self._name} does not answer any more") from error
        except RayError as error:
            raise WorkerEnded(
                f"the worker of {self._name} is gone ({_last_line(error)})"
            ) from error

    def close(self) -> None:
        """End the actor."""
        import ray

        with suppress(Exception):  # it is gone, or the cluster is
            ray.kill(self._actor)


def _last_line(error: object) -> str:
    """Return what an error says at its end, below a traceback of another process."""
    *_, line = str(error).strip().splitlines() or [type(error).__name__]
    return line.strip()[:200]


def _read_pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces, one at least."""
    with path.open("rb") as file:
        yield file.read(_PIECE_BYTES)
        while piece := file.read(_PIECE_BYTES):
            yield piece
