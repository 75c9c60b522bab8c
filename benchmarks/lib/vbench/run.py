"""A folder of videos made by the protocol, and the record of how.

    DIR/run.json                  prompts, model, sizes, first seed: what all shards share
    DIR/videos.jsonl              a line a video of the whole suite: file, prompt, index, seed
    DIR/scene/{prompt}-{i}.mp4    and nothing else there: the evaluator looks at every name

A video appears under its name when it is finished. Each also remembers its own settings, device and
precision (`hb-run --info`), which may differ between shards.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hummingbird_edge.benchmarks.lib.record import write_file
from hummingbird_edge.benchmarks.lib.vbench.suite import EVALUATED, Sample, Suite
from hummingbird_edge.runtime.errors import GenerationError, OutputError, RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request

__all__ = ["SCHEMA", "Run", "begin", "describe", "make", "open_run", "put"]

SCHEMA = "hummingbird-edge/vbench/1"
_RECORD, _VIDEOS, _UNFINISHED = "run.json", "videos.jsonl", "unfinished"


@dataclass(frozen=True, slots=True)
class Run:
    """A folder, and the videos that it has or will have."""

    folder: Path
    record: Mapping[str, Any]
    samples: tuple[Sample, ...]
    """Of the whole suite."""

    @property
    def is_official(self) -> bool:
        """Whether the prompts are VBench's own."""
        return bool(self.record["prompts"]["official"])

    def path(self, sample: Sample) -> Path:
        """Return the file of a video."""
        return self.folder / sample.file

    def evaluated(self, dimension: str) -> list[Sample]:
        """Return the videos that the evaluator reads for a dimension, the first of each prompt."""
        return [
            sample
            for sample in self.samples
            if dimension in sample.dimensions and sample.index < EVALUATED
        ]


def describe(suite: Suite, request: Request, model: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return the record of a run; `request` is the one of any of its videos."""
    shape = {key: value for key, value in asdict(request).items() if key not in ("prompt", "seed")}
    return {
        "schema": SCHEMA,
        "prompts": {
            "name": suite.name,
            "official": suite.is_official,
            "sha256": suite.sha256,
            "count": len(suite.prompts),
        },
        "model": dict(model),
        "video": shape,
        "first_seed": seed,
    }


def begin(folder: Path, record: dict[str, Any], samples: tuple[Sample, ...]) -> Run:
    """Write the record, or go on with the run that is there if its record is the same.

    Raises RequestError where `folder` has another run or something else, OutputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise OutputError(f"{folder} is no folder to write to ({error}): choose another") from error
    if (folder / _RECORD).exists():
        _require_same(folder, _read_record(folder), record)
    elif others and others != [_VIDEOS]:
        raise RequestError(
            f"{folder} has no {_RECORD} but other things ({others[0]}): choose an empty folder"
        )
    lines = (json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
    write_file(folder / _VIDEOS, "".join(lines).encode())
    write_file(folder / _RECORD, f"{json.dumps(record, indent=2)}\n".encode())
    return Run(folder, record, samples)


def open_run(folder: Path) -> Run:
    """Return the run in a folder; raises RequestError where there is none."""
    record = _read_record(folder)
    try:
        lines = (folder / _VIDEOS).read_text(encoding="utf-8").splitlines()
        samples = tuple(_sample(json.loads(line)) for line in lines)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RequestError(
            f"{folder / _VIDEOS} is not what vbench.py sample wrote ({error}): run that again"
        ) from error
    return Run(folder, record, samples)


def make(
    run: Run,
    samples: Iterable[Sample],
    pipeline: TextToVideo,
    report: Callable[[Sample], None] = lambda sample: None,
) -> None:
    """Make the videos that are not there yet; `report` hears of each before it is made.

    One that the model fails at is left out, and the others are made. Raises GenerationError for
    such ones at the end, DeviceError, OutputError.
    """
    failures = list[str]()
    for sample in samples:
        if run.path(sample).exists():
            continue
        report(sample)
        try:
            video = pipeline(sample.prompt, seed=sample.seed, **run.record["video"])
            put(run, sample, video.save)
        except GenerationError as error:
            failures.append(f"{sample.file} ({error})")
    with suppress(OSError):  # another shard's are there
        (run.folder / _UNFINISHED).rmdir()
    if failures:
        raise GenerationError(f"{len(failures)} videos could not be made, first {failures[0]}")


def put(run: Run, sample: Sample, write: Callable[[Path], object]) -> None:
    """Have `write` make a video's file, which then appears under its name; raises OutputError.

    It is made under a short name elsewhere: evaluators take half-written ones for whole, and a
    prompt's own name would leave no room for what marks a file as unfinished.
    """
    target, elsewhere = run.path(sample), run.folder / _UNFINISHED
    try:
        for folder in (target.parent, elsewhere):
            folder.mkdir(exist_ok=True)
        made = elsewhere / f"{sample.seed}-{os.getpid()}.mp4"
        write(made)
        made.replace(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error}): choose another folder") from error


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema = record["schema"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RequestError(
            f"{path} is no record of a run ({error}): give the folder of vbench.py sample"
        ) from error
    if schema != SCHEMA:
        raise RequestError(
            f"{path} has the schema {schema!r}, not {SCHEMA!r}: use the version that made it"
        )
    return dict(record)


def _sample(entry: dict[str, Any]) -> Sample:
    return Sample(**{**entry, "dimensions": tuple(entry["dimensions"])})


def _require_same(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RequestError where two records differ, naming the first difference."""
    before, after = _flat(there), _flat(now)
    for key in (*after, *before):
        if before.get(key) != after.get(key):
            raise RequestError(
                f"{folder} has a run with {key} {before.get(key)}, not {after.get(key)}: "
                f"choose another folder, or the same settings"
            )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested entries by names such as `video.fps`."""
    found = dict[str, Any]()
    for key, value in record.items():
        inner = _flat(value) if isinstance(value, Mapping) else {"": value}
        found |= {f"{key}.{name}" if name else key: each for name, each in inner.items()}
    return found
