"""From a folder of captioned videos to clips that are worth training on.

Each video is read once, split at its cuts, and its scenes are measured; that takes the time, runs
anywhere and depends on no threshold. Which clips are kept is decided afterwards, from all of them
in the order of their names: whoever measured them, and in whatever order, the same are kept.

OUT/clips.parquet     every clip with what was measured and its fault
OUT/kept.jsonl        {"file", "start", "stop", "captions", "quality", ...} a clip, enriched
OUT/dropped.json      what was dropped and why, with the figures
OUT/statistics.json   how many clips each stage got and let through, and how long it took
OUT/shards/           the kept clips as tar files, where they are asked for
OUT/running.sqlite    locked by the command that works on it, where OUT is on this machine
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.distill.curation.duplicates import find_copies, take_fingerprint
from hummingbird_edge.distill.curation.enrich import Enrich, Enricher
from hummingbird_edge.distill.curation.filters import (
    COPY,
    Thresholds,
    measure_motion,
    measure_quality,
)
from hummingbird_edge.distill.curation.pipeline import Batch, Each, Here, Runner
from hummingbird_edge.distill.curation.report import MEASURES, Report
from hummingbird_edge.distill.curation.scenes import read_scenes
from hummingbird_edge.distill.curation.scores import ScoreTable
from hummingbird_edge.distill.curation.shards import CLIPS_PER_SHARD, Pack, remove_from
from hummingbird_edge.distill.curation.videos import find_videos
from hummingbird_edge.distill.data.storage import Folder
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.files import lock

__all__ = ["KeptClip", "curate_folder", "decide", "read_kept", "score_folder"]

SCORING = tuple(map(Each, (read_scenes, measure_quality, measure_motion, take_fingerprint)))
BATCH = 8
"""Videos that go through scoring together."""
CAPTIONED = 64
"""Clips whose captions are enriched together."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class KeptClip:
    """A clip that is worth training on."""

    file: str
    """A path, or a URL that fsspec opens."""
    captions: tuple[str, ...]
    part: slice
    """Its frames of the file."""


def curate_folder(
    source: str | Path,
    output: str | Path,
    enricher: Enricher,
    thresholds: Thresholds,
    report: Progress = lambda done, count: None,
    runner: Runner | None = None,
    pack: bool = False,
) -> Report:
    """Filter the videos of `source`, enrich their captions, and list those kept and dropped.

    Both folders may be URLs that fsspec opens. `report` is called with the number of videos
    examined, and of all; `runner` says where they are examined, else it is this process. With
    `pack` the kept clips are written as tar files too, by the same runner.
    Raises RequestError where no clip is left, OutputError where nothing can be written.
    """
    folder, runner = Folder.at(output), runner or Here()
    videos = find_videos(Folder.at(source))
    with _writing(folder), ScoreTable(folder) as table:
        _score(videos, table, runner, report)
        clips = decide(table.clips.values(), thresholds)
        table.clips = {(clip.name, clip.scene): clip for clip in clips}
        _enrich([clip for clip in clips if not clip.verdict], table, enricher)
        found = Report(list(table.clips.values()))
        table.finish(found.clips)
        _write(folder, found)
        if pack:
            shards = list(_batches(found.kept, CLIPS_PER_SHARD))
            for _ in runner.run([Pack(folder)], shards):
                pass
            remove_from(folder, len(shards))
    if not found.kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons())
        first = f"{found.clips[0].label}: {found.clips[0].detail}"
        raise RequestError(
            f"no video of {source} is fit to train on ({reasons}; {first}): replace or add some"
        )
    return found


def score_folder(
    source: str | Path,
    output: str | Path,
    report: Progress = lambda done, count: None,
    runner: Runner | None = None,
) -> Report:
    """Measure the videos of `source` as `curate_folder` does, and drop none.

    Writes OUT/clips.parquet and OUT/statistics.json; raises RequestError and OutputError.
    """
    folder = Folder.at(output)
    videos = find_videos(Folder.at(source))
    with _writing(folder), ScoreTable(folder) as table:
        _score(videos, table, runner or Here(), report)
        # Of an earlier curation there may be verdicts.
        clips = [clip.but(verdict="") for clip in sorted(table.clips.values(), key=_place)]
        found = Report(clips)
        table.finish(found.clips)
        folder.write("statistics.json", _json(found.statistics()))
    return found


def decide(clips: Iterable[Candidate], thresholds: Thresholds) -> list[Candidate]:
    """Return the clips by name, each with its verdict, whatever the order they came in."""
    judged = [_judged(clip, thresholds) for clip in sorted(clips, key=_place)]
    passed = [index for index, clip in enumerate(judged) if not clip.verdict]
    copies = find_copies([judged[index].fingerprint for index in passed], thresholds.copy)
    for copy, original in copies.items():
        detail = f"of {judged[passed[original]].label}"
        judged[passed[copy]] = judged[passed[copy]].but(verdict=COPY, detail=detail)
    for number, index in enumerate(i for i in passed if not judged[i].verdict):
        judged[index] = judged[index].but(number=number)
    return judged


def _judged(clip: Candidate, thresholds: Thresholds) -> Candidate:
    verdict, detail = thresholds.fault(clip), clip.detail
    if not clip.fault:
        detail = ", ".join(f"{name} {getattr(clip, name):.3f}" for name in MEASURES)
    if not clip.captions and not (clip.caption_file and clip.fault == "unreadable"):
        detail = "no NAME.txt and no metadata.jsonl entry"
    return clip.but(verdict=verdict, detail=detail)


def _place(clip: Candidate) -> tuple[str, int]:
    return clip.name, clip.scene


def _score(videos: Batch, table: ScoreTable, runner: Runner, report: Progress) -> None:
    """Measure what the table lacks."""
    missing = table.keep(videos)
    if known := len(videos) - len(missing):
        report(known, len(videos))
    done = count(known + 1)
    for clips in runner.run(SCORING, list(_batches(missing, BATCH))):
        table.add(clips)
        for _ in filter(attrgetter("is_last"), clips):
            report(next(done), len(videos))


def _enrich(kept: Sequence[Candidate], table: ScoreTable, enricher: Enricher) -> None:
    """Enrich the captions that `enricher` has not enriched yet; its key stays in this process."""
    missing = [clip for clip in kept if clip.enriched_by != str(enricher)]
    for clips in Here().run([Enrich(enricher)], list(_batches(missing, CAPTIONED))):
        table.add(clips)


def _batches(clips: Sequence[Candidate], size: int) -> Iterator[Batch]:
    return (clips[start : start + size] for start in range(0, len(clips), size))


@contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    """Be the only command of this machine that writes there; raises OutputError."""
    try:
        with _locked(folder.path) if folder.path else nullcontext():
            yield
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error}): choose another") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    held = lock(folder / "running.sqlite")
    if held is None:
        raise OutputError(f"another command works on {folder}: wait for it, or choose another")
    try:
        yield
    finally:
        held.close()


def _write(folder: Folder, found: Report) -> None:
    dropped = [
        {"file": clip.label, "reason": clip.verdict, "detail": clip.detail}
        for clip in found.dropped
    ]
    folder.write("dropped.json", _json(dropped))
    folder.write("statistics.json", _json(found.statistics()))
    if found.kept:
        lines = [json.dumps(_entry(clip)) + "\n" for clip in found.kept]
        folder.write("kept.jsonl", "".join(lines).encode())
    elif folder.exists("kept.jsonl"):  # of other thresholds
        folder.remove("kept.jsonl")


def _entry(clip: Candidate) -> dict[str, object]:
    """Return its line of kept.jsonl."""
    part = {} if clip.is_whole else {"start": clip.start, "stop": clip.stop}
    measures = {name: getattr(clip, name) for name in MEASURES}
    return {"file": clip.file, **part, "captions": clip.enriched, **measures}


def _json(entries: object) -> bytes:
    return (json.dumps(entries, indent=2) + "\n").encode()


def read_kept(folder: str | Path) -> list[KeptClip]:
    """Return the clips that `curate_folder` kept; raises RequestError."""
    try:
        lines = Folder.at(folder).read("kept.jsonl").decode("utf-8").splitlines()
        kept = [_kept(json.loads(line)) for line in lines]
        if not kept:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(
            f"{folder} has no readable kept.jsonl ({error}): run hb-distill curate first"
        ) from error
    return kept


def _kept(entry: Any) -> KeptClip:
    """Return the clip of a line of kept.jsonl; raises ValueError where it is none."""
    file, captions = entry["file"], entry["captions"]
    if not isinstance(file, str):
        raise ValueError(f"the file is {file!r}")
    if not isinstance(captions, list) or not captions or not all(map(_is_text, captions)):
        raise ValueError(f"captions are {captions!r}")
    bounds = entry.get("start"), entry.get("stop")
    if not all(each is None or (isinstance(each, int) and each >= 0) for each in bounds):
        raise ValueError(f"start and stop are {bounds}")
    return KeptClip(file, tuple(captions), slice(*bounds))


def _is_text(value: object) -> bool:
    return isinstance(value, str)
