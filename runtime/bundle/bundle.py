"""A model bundle: a folder of graphs, a tokenizer and a manifest, verified before it is used."""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hummingbird_edge.runtime.bundle.manifest import MANIFEST, Manifest
from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import sha256_of

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
        """Read the manifest and hold the files to it.

        Sizes are checked every time; digests when `verify` asks for it, and the first time this
        user opens these files (again when one has changed). Raises BundleError.
        """
        folder = Path(folder)
        bundle = cls(folder, Manifest.read(folder))
        bundle._check_sizes()
        if verify or not bundle._was_verified():
            bundle.verify()
            bundle._remember_verified()
        return bundle

    def path(self, name: str) -> Path:
        """Return the path of a file of the bundle; raises BundleError where it leads outside."""
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
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

    @property
    def bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(facts.bytes for facts in self.manifest.files.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the digests of all other files."""
        return sha256_of(self.folder / MANIFEST)

    def verify(self) -> None:
        """Compare every file with its digest; raises BundleError naming the first that differs."""
        for name, facts in self.manifest.files.items():
            found = sha256_of(self.path(name))
            if found != facts.sha256:
                raise BundleError(
                    f"{self.folder / name} was changed: its SHA-256 is {found[:12]}..., the "
                    f"manifest says {facts.sha256[:12]}...: build or copy the bundle again"
                )

    def _check_sizes(self) -> None:
        files = [path.relative_to(self.folder) for path in self.folder.rglob("[!.]*")]
        present = {path.as_posix() for path in files}
        listed = {*self.manifest.files, MANIFEST}
        # An engine reads what a graph names: a file without a digest must not be within reach.
        if extra := sorted(n for n in present - listed if self.path(n).is_file()):
            raise BundleError(
                f"{self.folder} holds {extra[0]}, which the manifest does not list: "
                f"remove it, or build the bundle again"
            )
        for name, facts in self.manifest.files.items():
            path = self.path(name)
            if not path.is_file():
                raise BundleError(f"{path} is missing: build or copy the bundle again")
            if (found := path.stat().st_size) != facts.bytes:
                raise BundleError(
                    f"{path} has {found} bytes, the manifest says {facts.bytes}: "
                    f"build or copy the bundle again"
                )

    def _stamp(self) -> str:
        """Return a text that changes when the manifest or any file is written again."""
        stats = {name: self.path(name).stat() for name in self.manifest.files}
        return self.digest + json.dumps({n: [s.st_size, s.st_mtime_ns] for n, s in stats.items()})

    @property
    def _record(self) -> Path:
        from platformdirs import user_cache_path

        place = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:32]
        return user_cache_path("hummingbird-edge") / "verified" / place

    def _was_verified(self) -> bool:
        try:
            return self._record.read_text(encoding="utf-8") == self._stamp()
        except (OSError, ValueError):
            return False

    def _remember_verified(self) -> None:
        record = self._record
        partial = record.with_suffix(f".{os.getpid()}")
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(self._stamp(), encoding="utf-8")
            partial.replace(record)
        except OSError:
            # A home that cannot be written costs a second hash next time, nothing else.
            with contextlib.suppress(OSError):
                partial.unlink()
