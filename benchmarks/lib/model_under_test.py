"""The bundle to measure: the built-in one, a given one, or the published size made here."""

import json
import subprocess
import sys
from pathlib import Path

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError

__all__ = ["open_model", "random_copy", "random_full_size"]


def open_model(bundle: Path | None, full_size: Path | None, quick: bool) -> Bundle:
    """Return the bundle to measure: the built-in one for `quick` or where none is given.

    Raises RequestError for more than one, BundleError for a folder that is no bundle.
    """
    if quick and (bundle or full_size):
        raise RequestError("--quick measures the built-in model: give no other")
    if bundle is not None and full_size is not None:
        raise RequestError("a BUNDLE and --full-size exclude each other: give one")
    if full_size is not None:
        bundle = random_full_size(full_size)
    return Bundle.open(bundle or BUILTIN)


def random_full_size(folder: Path) -> Path:
    """Return hummingbird-0.7b with random weights and a random tiny decoder; export it once.

    The export takes some minutes, 2.5 GB on disk and 8 GB of memory. Raises HummingbirdError.
    """
    bundle = folder / "hummingbird-0.7b"
    if not bundle.exists():
        import torch
        from safetensors.torch import save_file

        from hummingbird_edge.export.models.tiny_decoder import TinyDecoder

        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        save_file(dict(TinyDecoder().state_dict()), folder / "tiny.safetensors")
        tiny = ["--tiny-decoder", folder / "tiny.safetensors"]
        _export(bundle, "--preset", "hummingbird-0.7b", *tiny)
    return bundle


def random_copy(source: Path, folder: Path) -> Path:
    """Export random weights in the layout of the bundle at `source` into `folder`."""
    bundle = Bundle.open(source)
    config, out = folder / "config.json", folder / "random"
    config.write_text(json.dumps(bundle.manifest.provenance.config), encoding="utf-8")
    _export(out, "--config", config, "--tokenizer", bundle.path("tokenizer"))
    return out


def _export(out: Path, *options: object) -> None:
    """Run `hb-export build` in a subprocess, which returns its memory."""
    program = "from hummingbird_edge.export.cli import main; main()"
    arguments = [
        "--random-weights",
        *map(str, options),
        "--precision",
        "fp32",
        "--storage",
        "float16",
        str(out),
    ]
    command = [sys.executable, "-c", program, "build", *arguments]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise HummingbirdError(f"{out} could not be built, see above: fix that and try again")
