"""Every reader of files from elsewhere, and small valid files for each.

`test_fuzz.py` runs each for some seconds on mutations of its own, and on what was found before;
`fuzz.py` runs one for as long as you like.
"""

import io
import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from hummingbird_edge.export.architecture import read_config
from hummingbird_edge.export.build import _read_config_file
from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.inert_pickle import read_pickle
from hummingbird_edge.export.lora import Adapter
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.cli.jobs import job_to_resume
from hummingbird_edge.runtime.errors import HummingbirdError
from hummingbird_edge.runtime.media.latents import LatentsFile, write_latents
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["READERS", "Reader", "try_file"]

_LINEAR = torch.nn.Linear(3, 4)


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file."""

    file: str
    """What the file is called in its folder."""
    read: Callable[[Path], object]
    """Reads it; may raise HummingbirdError alone."""
    seeds: Callable[[], list[bytes]]
    """Makes valid files, for mutations to start from."""
    beside: Mapping[str, Callable[[], bytes]]
    """Other files that it needs in its folder."""


def try_file(reader: Reader, content: bytes, folder: Path) -> HummingbirdError | None:
    """Read `content` as the reader's file in `folder`; returns the error of ours, raises others."""
    for name, make in reader.beside.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(make())
    path = folder / reader.file
    path.write_bytes(content)
    try:
        reader.read(path)
    except HummingbirdError as error:
        return error
    return None


def _read_checkpoint(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    for name in checkpoint.tensors:
        _ = checkpoint.tensors[name].shape
    read_config(checkpoint)


def _read_adapter(path: Path) -> None:
    unet = torch.nn.Sequential(torch.nn.Linear(3, 4))
    unet.load_state_dict(_LINEAR.state_dict(prefix="0."))
    Adapter.read(path.parent).merge(unet)


def _read_bundle(path: Path) -> None:
    manifest = Bundle.open(path.parent).manifest
    Request.for_model(manifest, "a red circle", seed=0).stage_sizes(manifest)


def _read_latents(path: Path) -> None:
    bundle, tokenizer = _builtin()
    request = job_to_resume(path, None).request(bundle, {})
    tokenizer(request.prompt)
    gaussian_noise((2, 2), request.seed, 0)


@cache
def _builtin() -> tuple[Bundle, Tokenizer]:
    return Bundle.open(BUILTIN), Tokenizer(BUILTIN / "tokenizer")


def _archives() -> list[bytes]:
    tensors = {"a": torch.ones(2, 3), "b": torch.arange(4)}
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    whole = torch.nn.Sequential(OrderedDict(a=inner, b=inner))
    found = []
    for content in (tensors, {"state_dict": OrderedDict(tensors), "epoch": 3}, whole):
        for protocol in (2, 4):
            out = io.BytesIO()
            torch.save(content, out, pickle_protocol=protocol)
            found.append(out.getvalue())
    return found


def _pickles() -> list[bytes]:
    found = []
    for archive in _archives():
        start = archive.index(b"\x80")
        found.append(archive[start : archive.index(b"PK\x07\x08", start)])
    return found


def _safetensors() -> list[bytes]:
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.model.")
    names = ("input_blocks.0.0.weight", "conv_in.weight", "token_embedding.weight")
    tensors = {f"{p}{n}": torch.ones(2, 3) for p, n in zip(prefixes, names, strict=True)}
    return [safetensors.torch.save(tensors, {"format": "pt"})]


def _adapter_weights() -> bytes:
    sides = {"A": torch.ones(2, 3), "B": torch.ones(4, 2)}
    names = {f"base_model.model.0.lora_{side}.weight": part for side, part in sides.items()}
    return safetensors.torch.save(names)


def _adapter_config() -> bytes:
    return json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": True, "rank_pattern": {}}).encode()


def _configs() -> list[bytes]:
    return [json.dumps(ModelConfig().to_dict()).encode()]


def _indexes() -> list[bytes]:
    entries = {"metadata": {"total_size": 8}, "weight_map": {"a": "w.safetensors", "b": "w.st"}}
    return [json.dumps(entries).encode()]


def _latents() -> list[bytes]:
    found = []
    bundle, _ = _builtin()
    request = Request.for_model(bundle.manifest, "a red circle", seed=1, frames=1, steps=4)
    settings = {**request.settings(), "bundle_sha256": bundle.digest, "model": "builtin"}
    origin = {"device": "cpu", "output": "a.mp4"}
    shape = request.latent_shape(bundle.manifest)
    for taken, latents in ((4, np.ones(shape, np.float32)), (0, np.ones(0, np.float32))):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.latents")
            write_latents(path, LatentsFile(settings, taken, latents, origin))
            found.append(path.read_bytes())
    return found


_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
READERS: Mapping[str, Reader] = {
    "pickle": Reader("a.pkl", lambda path: read_pickle(path.read_bytes(), "a.pkl"), _pickles, {}),
    "archive": Reader("a.pt", _read_checkpoint, _archives, {}),
    "safetensors": Reader("a.safetensors", _read_checkpoint, _safetensors, {}),
    "index": Reader(
        "a.safetensors.index.json", _read_checkpoint, _indexes, {"w.st": lambda: _safetensors()[0]}
    ),
    "adapter": Reader(
        _WEIGHTS, _read_adapter, lambda: [_adapter_weights()], {_CONFIG: _adapter_config}
    ),
    "adapter_config": Reader(
        _CONFIG, _read_adapter, lambda: [_adapter_config()], {_WEIGHTS: _adapter_weights}
    ),
    "config": Reader("config.json", _read_config_file, _configs, {}),
    "manifest": Reader(MANIFEST, _read_bundle, lambda: [(BUILTIN / MANIFEST).read_bytes()], {}),
    "latents": Reader("a.latents", _read_latents, _latents, {}),
}
