"""A model bundle: a folder of graphs, a tokenizer and a manifest, verified before it is used."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from hummingbird_edge.runtime.bundle.external_data import external_files
from hummingbird_edge.runtime.bundle.manifest import MANIFEST, Manifest
from hummingbird_edge.runtime.bundle.real_files import with_real_files
from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import (
    read_record,
    record_path,
    recover,
    sha256_of,
    write_record,
)
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["BUILTIN", "Bundle"]

BUILTIN = Path(__file__).parent.parent / "builtin"
"""The bundle that is installed with the runtime."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> "Bundle":
        """Read the manifest and check the files against it.

        Sizes are checked every time; digests when `verify` says so, and the first time this user
        opens these files (again when one has changed). Files that the manifest does not list are
        passed over: nothing reads them. Raises BundleError.
        """
        recover(Path(folder))
        folder = with_real_files(Path(folder))
        bundle = cls(folder, Manifest.read(folder))
        bundle._check_sizes()
        if verify or not bundle._was_verified():
            bundle.verify()
            write_record(bundle._record, {"stamp": bundle._stamp()})
        return bundle

    def path(self, name: str) -> Path:
        """Return the path of a file of the bundle; raises BundleError where it leads outside."""
        path = self.folder / name
        try:
            real, home = path.resolve(), self.folder.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself
            raise BundleError(f"bundle file {path} cannot be followed ({error})") from error
        if not real.is_relative_to(home):
            raise BundleError(
                f"bundle file {name} is a link out of {self.folder}: copy the file itself there"
            )
        return path

    def graph(self, stage: str, device: str | None = None, precision: str = "float32") -> Path:
        """Return the path of the graph of `stage` for `device`, which must be listed."""
        name = self.manifest.graph(stage, device, precision)
        if name not in self.manifest.files:
            raise BundleError(
                f"{self.folder / MANIFEST} gives no digest for {name}: build the bundle again"
            )
        return self.path(name)

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer of the text encoder; raises BundleError."""
        return Tokenizer(self.path("tokenizer"), self.manifest.model.context_length)

    @property
    def bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the digests of all other files."""
        return sha256_of(self.folder / MANIFEST)

    def verify(self) -> None:
        """Compare every file with its digest; raises BundleError naming the first that differs.

        An engine reads the files that a graph names: each must be listed too.
        """
        for name, entry in self.manifest.files.items():
            found = sha256_of(self.path(name))
            if found != entry.sha256:
                raise BundleError(
                    f"{self.folder / name} was changed: its SHA-256 is {found[:12]}..., the "
                    f"manifest says {entry.sha256[:12]}...: build or copy the bundle again"
                )
        for name in {v.graph for stage in self.manifest.stages.values() for v in stage.variants}:
            self._check_external_files(name)

    def _check_external_files(self, graph: str) -> None:
        if graph not in self.manifest.files:
            return  # `graph()` refuses it
        for location in sorted(external_files(self.path(graph))):
            name = (PurePosixPath(graph).parent / location).as_posix()
            if name not in self.manifest.files:
                raise BundleError(
                    f"{self.folder / graph} reads weights from {location!r}, which the manifest "
                    f"does not list: build or copy the bundle again"
                )

    def _check_sizes(self) -> None:
        for name, entry in self.manifest.files.items():
            path = self.path(name)
            if not path.is_file():
                raise BundleError(f"{path} is missing: build or copy the bundle again")
            if (found := path.stat().st_size) != entry.bytes:
                raise BundleError(
                    f"{path} has {found} bytes, the manifest says {entry.bytes}: "
                    f"build or copy the bundle again"
                )

    def _stamp(self) -> str:
        """Return a text that changes when the manifest or any file is written again."""
        stats = {name: self.path(name).stat() for name in self.manifest.files}
        return self.digest + json.dumps({n: [s.st_size, s.st_mtime_ns] for n, s in stats.items()})

    @property
    def _record(self) -> Path:
        return record_path("verified", _FORM, os.fspath(self.folder.resolve()))

    def _was_verified(self) -> bool:
        return read_record(self._record).get("stamp") == self._stamp()


_FORM = 2
"""Counts changes of what verifying means: bundles that passed less are verified again."""
