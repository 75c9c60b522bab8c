"""Load a graph, or a stage of a bundle, on the engine of its backend."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import StageKind
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.session import Session

__all__ = ["Opener", "open_session", "open_stage"]


class Opener(Protocol):
    """What loads a graph: `open_session`, or a worker's `open`."""

    def __call__(
        self,
        graph: Path,
        backend: Backend,
        sizes: Mapping[str, int] | None = None,
        cache: CompileCache | None = None,
        notify: Callable[[str], None] = lambda _: None,
        kind: StageKind | None = None,
    ) -> Session:
        """Return a session; raises DeviceError where the device is not there or refuses it."""
        ...


def open_stage(
    bundle: Bundle,
    stage: str,
    backend: Backend,
    sizes: Mapping[str, int] | None = None,
    cache: CompileCache | None = None,
    notify: Callable[[str], None] = lambda _: None,
    opener: Opener | None = None,
) -> Session:
    """Load the graph of a stage that suits `backend`; raises BundleError or DeviceError.

    The other arguments are those of `open_session`, which `opener` may stand in for.
    """
    graph = bundle.graph(stage, backend.device.family, backend.graph)
    kind = bundle.manifest.stage(stage).kind
    return (opener or open_session)(graph, backend, sizes, cache, notify, kind)


def open_session(
    graph: Path,
    backend: Backend,
    sizes: Mapping[str, int] | None = None,
    cache: CompileCache | None = None,
    notify: Callable[[str], None] = lambda _: None,
    kind: StageKind | None = None,
) -> Session:
    """Load `graph`; raises DeviceError where the device is not there or refuses it.

    `sizes` fixes free axes by their names (`frames`, `height`, `width`, `batch`), or none. `cache`
    keeps what an engine compiles; `notify` hears of a compilation before it starts. `kind` is what
    the graph does: engines plan the memory of a U-Net otherwise.
    """
    if backend.device.engine == "openvino":
        from hummingbird_edge.runtime.engines.openvino import OpenVINOSession

        return OpenVINOSession(graph, backend, sizes or {}, cache, notify)
    from hummingbird_edge.runtime.engines.onnxruntime import ONNXRuntimeSession

    return ONNXRuntimeSession(graph, backend, sizes or {}, cache, notify, kind)
