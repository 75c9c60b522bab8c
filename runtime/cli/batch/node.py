"""What runs on a node of a cluster: an actor that makes videos, and the bundle's place there."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.cli.batch.worker import Answer, Cores, Maker, Settings
from hummingbird_edge.runtime.command import note
from hummingbird_edge.runtime.errors import DeviceError
from hummingbird_edge.runtime.files import atomic_folder, cache_directory, lock, sha256_of
from hummingbird_edge.runtime.request import Request

__all__ = ["Node", "Piece"]

Piece = tuple[str, Any]
"""The name of a bundle's file, and a reference to its next bytes in the object store."""
_PATIENCE_S = 3600.0
"""While another worker of this node fetches the bundle."""


class Node:
    """A worker's half on its node; the other is `RayWorker`."""

    def __init__(self, settings: Settings, device: str, cores: Cores) -> None:
        self._settings, self._device, self._cores = settings, device, cores
        self._maker: Maker | None = None

    def prepare(self) -> bool:
        """Keep to its cores; tell whether the bundle is here.

        It is by its path, in the package, or from an earlier batch. Raises DeviceError where
        another version is installed here.
        """
        if (found := version("hummingbird-edge")) != self._settings.version:
            raise DeviceError(
                f"hummingbird-edge {found} is installed here, the command is "
                f"{self._settings.version}: install the same"
            )
        self._cores.keep()
        return self._folder() is not None

    def place(self, pieces: Iterable[Piece]) -> None:
        """Fetch the bundle, unless another worker of this node just did; raises BundleError."""
        import ray

        target = self._cached()
        target.parent.mkdir(parents=True, exist_ok=True)
        held = lock(target.parent / "running.sqlite", _PATIENCE_S)
        try:
            if self._folder() is not None:
                return
            with atomic_folder(target) as partial:
                for name, reference in pieces:
                    path = partial / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("ab") as file:
                        file.write(ray.get(reference))
                Bundle.open(partial, verify=True)
        finally:
            if held is not None:
                held.close()

    def load(self) -> None:
        """Open the bundle; raises HummingbirdError."""
        folder = self._folder()
        assert folder is not None
        self._maker = Maker(self._settings, self._device, folder, note)

    def make(self, request: Request) -> tuple[Answer, bytes]:
        """Make a video; returns its file's bytes, none where there is an error."""
        assert self._maker is not None
        with TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            answer = self._maker.make(request, path)
            return answer, b"" if answer.code else path.read_bytes()

    def _folder(self) -> Path | None:
        for folder in (Path(self._settings.bundle), BUILTIN, self._cached()):
            manifest = folder / MANIFEST
            if manifest.is_file() and sha256_of(manifest) == self._settings.digest:
                return folder
        return None

    def _cached(self) -> Path:
        return cache_directory("bundles", self._settings.digest)
