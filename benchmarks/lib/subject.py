"""What is measured: the built-in bundle, one that is given, or the published size made here."""

import json
import subprocess
import sys
from pathlib import Path

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError
from hummingbird_edge.runtime.request import Request

__all__ = ["open_subject", "random_copy", "random_full_size", "size_of"]


def open_subject(bundle: Path | None, full_size: Path | None, quick: bool) -> Bundle:
    """Return the bundle to measure: the built-in one for `quick`, and where nothing is given.

    Raises RequestError for more than one, BundleError for a folder that is none.
    """
    if quick and (bundle or full_size):
        raise RequestError("--quick measures the built-in model: give no other")
    if bundle is not None and full_size is not None:
        raise RequestError("a BUNDLE and --full-size exclude each other: give one")
    if full_size is not None:
        bundle = random_full_size(full_size)
    return Bundle.open(bundle or BUILTIN)


def random_full_size(folder: Path) -> Path:
    """Export hummingbird-0.7b with random weights and a random tiny decoder, or find it made.

    Takes some minutes and 2.5 GB, 8 GB of memory. Raises HummingbirdError where it fails.
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
        _build(bundle, "--preset", "hummingbird-0.7b", *tiny)
    return bundle


def random_copy(source: Path, folder: Path) -> Path:
    """Export random weights in the layout of the bundle at `source` into `folder`."""
    bundle = Bundle.open(source)
    config, out = folder / "config.json", folder / "random"
    config.write_text(json.dumps(bundle.manifest.provenance.config), encoding="utf-8")
    _build(out, "--config", config, "--tokenizer", bundle.path("tokenizer"))
    return out


def size_of(request: Request) -> str:
    """Return what is made in words."""
    return f"{request.frames} frames of {request.width}x{request.height}"


def _build(out: Path, *options: object) -> None:
    """Run `hb-export build` in a process of its own, which gives its memory back."""
    program = "from hummingbird_edge.export.cli import main; main()"
    asked = ["--random-weights", *map(str, options), "--storage", "float16", str(out)]
    command = [sys.executable, "-c", program, "build", *asked]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise HummingbirdError(f"{out} could not be built, see above: mend that and try again")
