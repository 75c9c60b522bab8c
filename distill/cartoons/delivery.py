"""Carry a run's weights away: halves in a few files of limited size, and back.

What a GPU that is at hand for minutes has trained goes on elsewhere from here. Optimizers stay.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hummingbird_edge.distill.cartoons.budget import share_spent
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.runtime.errors import CheckpointError, OutputError, RequestError
from hummingbird_edge.runtime.files import read_record, write_json

__all__ = ["CARRIED", "pack", "read_stages", "unpack"]

CARRIED = ("vae", "judge", "critic", "teacher", "consistency", "decoder")
"""Stages whose weights later ones or other machines go on from."""
MAX_BYTES = 16 * 2**20 - 2**16
"""Of one file, its header left out."""
MAX_FILES = 8


def pack(run: Path, folder: Path) -> list[Path]:
    """Write the averaged weights of a run's stages; returns the files. Raises OutputError."""
    tensors: dict[str, Tensor] = {}
    metadata = {}
    for stage in CARRIED:
        if (state := Run(run, stage).load()) is None:
            continue
        metadata[stage] = {
            "step": state["step"],
            "config": state["config"],
            "share": share_spent(state),
        }
        for name, tensor in state["average"].items():
            half = tensor.half() if tensor.is_floating_point() else tensor
            tensors[f"{stage}/{name}"] = half.contiguous()
    parts = list(_parts(tensors))
    if len(parts) > MAX_FILES:
        raise OutputError(
            f"the weights of {run} fill {len(parts)} files, {MAX_FILES} may be carried: train "
            f"a smaller model"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("weights-*.safetensors"):
        old.unlink()
    files = []
    for index, part in enumerate(parts):
        files.append(folder / f"weights-{index}.safetensors")
        save_file(part, files[-1], {"stages": json.dumps(metadata)})
    return files


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        weight = tensor.numel() * tensor.element_size()
        if part and size + weight > MAX_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += weight
    if part:
        yield part


def unpack(folder: Path, run: Path) -> list[str]:
    """Put carried weights into a new run as checkpoints; returns the stages.

    A run that names a stage among its `--stages` trains it: for the rest of its time, or for all of
    it where it was finished. Other stages are used as they are. A run that has these weights
    already is left as it is; raises RequestError for one that has others, for VAE and teacher are
    made for each other, and CheckpointError for what is no carried weights.
    """
    stages = read_stages(folder)
    record, known = run / "unpacked.json", {name: x["step"] for name, x in stages.items()}
    if read_record(record) == known:
        return list(stages)
    if record.exists() or list(run.glob("*.pt")):
        raise RequestError(
            f"{run} has other checkpoints than {folder}: choose a new folder, or leave --unpack out"
        )
    for stage, state in stages.items():
        Run(run, stage).save({**state, "model": state["average"]})
    write_json(record, known)
    return list(stages)


def read_stages(folder: Path) -> dict[str, dict[str, Any]]:
    """Read carried weights: for each stage `average` (float32), `step`, `config` and `share`.

    Raises CheckpointError.
    """
    weights: dict[str, dict[str, Tensor]] = {}
    metadata: dict[str, Any] = {}
    try:
        for path in sorted(folder.glob("weights-*.safetensors")):
            with safe_open(path, "pt") as file:
                metadata = json.loads(file.metadata()["stages"])
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    stage, name = key.split("/", 1)
                    tensor = file.get_tensor(key)
                    value = tensor.float() if tensor.is_floating_point() else tensor
                    weights.setdefault(stage, {})[name] = value
        stages = {stage: _stage(known) for stage, known in metadata.items()}
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no carried weights ({type(error).__name__}): fetch all its files anew"
        ) from error
    if not stages or set(stages) != set(weights) or not set(stages) <= set(CARRIED):
        raise CheckpointError(f"{folder} lacks files of carried weights: fetch all of them")
    return {stage: {**known, "average": weights[stage]} for stage, known in stages.items()}


def _stage(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a stage; raises TypeError, KeyError or ValueError for what is odd."""
    share, config = float(metadata.get("share", 1.0)), metadata["config"]
    if not 0 <= share <= 1 or not isinstance(config, dict):
        raise ValueError
    return {"step": int(metadata["step"]), "config": config, "share": share}
