"""From a folder of captioned videos to clips that are worth training on.

The result of every video is written at once (OUT/examined.jsonl), so that a stopped run resumes
with the next one: decoding is slow, and so is a language model.

OUT/kept.jsonl      {"file", "captions", "quality", "smoothness"} a clip, enriched
OUT/dropped.json    what was dropped and why, with the figures
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.data.enrich import Enricher
from hummingbird_edge.distill.data.filters import Measures, fingerprint, measure_video
from hummingbird_edge.distill.data.frames import TooShortError, read_frames
from hummingbird_edge.distill.data.videos import CaptionedVideo, find_videos
from hummingbird_edge.runtime.errors import OutputError, RequestError
from hummingbird_edge.runtime.files import atomic_path

__all__ = ["Report", "Thresholds", "curate_folder", "read_kept"]

MEASURED_FRAMES, MEASURED_SIDE = 16, 192


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits that a clip must keep to be used."""

    quality: float = 0.2
    smoothness: float = 0.5
    dolly: float = 0.15
    """Highest growth of the border beyond the middle over a clip."""
    copy: int = 6
    """Bits (of 576) by which two clips must differ."""

    def reason(self, measures: Measures) -> str | None:
        """Return why a clip is dropped, or None."""
        if measures.quality < self.quality:
            return "low quality"
        if measures.smoothness < self.smoothness:
            return "motion not smooth"
        if measures.dolly > self.dolly:
            return "dolly zoom"
        return None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A video that was left out."""

    file: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A video that is worth training on."""

    file: str
    captions: Sequence[str]
    measures: Mapping[str, float]
    print: NDArray[np.bool_]

    def entry(self) -> dict[str, object]:
        """Return its line of kept.jsonl."""
        return {"file": self.file, "captions": list(self.captions), **self.measures}

    def to_dict(self) -> dict[str, object]:
        """Return everything as JSON values."""
        parts = {"file": self.file, "captions": list(self.captions), "measures": self.measures}
        return {**parts, "print": np.packbits(self.print).tobytes().hex()}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Kept":
        """Build it from `to_dict`'s result."""
        mark = np.unpackbits(np.frombuffer(bytes.fromhex(entry["print"]), np.uint8)).astype(bool)
        return cls(entry["file"], tuple(entry["captions"]), entry["measures"], mark)


@dataclass(frozen=True, slots=True)
class Report:
    """How many videos of a folder were kept, and which were dropped."""

    kept: int
    dropped: Sequence[Dropped]

    def reasons(self) -> list[tuple[str, int]]:
        """Return each reason with how many videos it dropped, the commonest first."""
        return Counter(entry.reason for entry in self.dropped).most_common()

    def table(self) -> str:
        """Return a Markdown table: how many were kept, how many dropped for each reason."""
        lines = ["| videos | |", "|---|---|", f"| kept | {self.kept} |"]
        lines += [f"| dropped: {reason} | {count} |" for reason, count in self.reasons()]
        return "\n".join(lines)


def curate_folder(
    folder: Path,
    output: Path,
    enrich: Enricher,
    thresholds: Thresholds,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Report:
    """Filter the videos of `folder`, enrich their captions, and list those kept and dropped.

    `report` is called with the number of videos examined, and of all. Raises RequestError where no
    video is left, OutputError where nothing can be written.
    """
    kept: list[Kept] = []
    dropped: list[Dropped] = []
    prints: list[NDArray[np.bool_]] = []
    videos = find_videos(folder)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with Journal(output / "examined.jsonl", {**asdict(thresholds), "by": str(enrich)}) as known:
            for done, video in enumerate(videos, 1):
                key = _key(video)
                found = known.get(key)
                if found is None:
                    name = video.path.relative_to(folder).as_posix()
                    found = _examine(video, name, enrich, thresholds, prints)
                    known.add(key, found)
                if isinstance(found, Kept):
                    kept.append(found)
                    prints.append(found.print)
                else:
                    dropped.append(found)
                report(done, len(videos))
        summary = Report(len(kept), dropped)
        if kept:
            _write(output, kept, dropped)
        (output / "examined.jsonl").unlink()
        if not kept and not any(output.iterdir()):
            output.rmdir()
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error}): choose another") from error
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons())
        first = f"{dropped[0].file}: {dropped[0].detail}"
        raise RequestError(
            f"no video of {folder} is fit to train on ({reasons}; {first}): replace or add some"
        )
    return summary


def _examine(
    video: CaptionedVideo,
    name: str,
    enrich: Enricher,
    thresholds: Thresholds,
    prints: Sequence[NDArray[np.bool_]],
) -> Kept | Dropped:
    """Decide on one video; `prints` are the fingerprints of those kept before it."""
    if not video.captions:
        return Dropped(name, "no caption", "no NAME.txt and no metadata.jsonl entry")
    try:
        frames = read_frames(video.path, MEASURED_FRAMES, MEASURED_SIDE, MEASURED_SIDE)
    except TooShortError as error:
        return Dropped(name, "too short", str(error))
    except ValueError as error:
        return Dropped(name, "unreadable", str(error))
    measures, mark = measure_video(frames), fingerprint(frames).ravel()
    reason = thresholds.reason(measures)
    if reason is None and any((mark ^ other).sum() < thresholds.copy for other in prints):
        reason = "copy of another"
    if reason is not None:
        detail = ", ".join(f"{k} {v:.2f}" for k, v in asdict(measures).items())
        return Dropped(name, reason, detail)
    captions = dict.fromkeys(text for c in video.captions for text in (c, *enrich(c)))
    return Kept(str(video.path.resolve()), tuple(captions), asdict(measures), mark)


def _captions(entry: Any) -> tuple[str, ...]:
    """Return the captions of a line of kept.jsonl; raises ValueError where they are none."""
    if not isinstance(entry, list) or not entry or not all(isinstance(x, str) for x in entry):
        raise ValueError(f"captions are {entry!r}")
    return tuple(entry)


def _key(video: CaptionedVideo) -> str:
    """Return a key of the journal; it changes whenever the video or its captions do."""
    status = video.path.stat()
    return json.dumps([str(video.path), status.st_size, status.st_mtime_ns, video.captions])


class Journal:
    """The results of the videos examined so far, one JSON object a line."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path, self.known = path, dict[str, Kept | Dropped]()
        head = json.dumps(settings)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines[:1] != [head]:  # of other settings
            path.write_text(head + "\n", encoding="utf-8", newline="\n")
            lines = []
        for line in lines[1:]:
            if line.endswith("}"):  # not the one that was cut short
                entry = json.loads(line)
                self.known[entry.pop("key")] = (
                    Kept.from_dict(entry) if "captions" in entry else Dropped(**entry)
                )
        self.file = path.open("a", encoding="utf-8", newline="\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def get(self, key: str) -> Kept | Dropped | None:
        """Return the result of a video, or None."""
        return self.known.get(key)

    def add(self, key: str, found: Kept | Dropped) -> None:
        """Write the result of a video at once."""
        entry = found.to_dict() if isinstance(found, Kept) else asdict(found)
        self.file.write(json.dumps({"key": key, **entry}) + "\n")
        self.file.flush()


def _write(output: Path, kept: Sequence[Kept], dropped: Sequence[Dropped]) -> None:
    texts = {
        "kept.jsonl": "".join(json.dumps(entry.entry()) + "\n" for entry in kept),
        "dropped.json": json.dumps([asdict(entry) for entry in dropped], indent=2) + "\n",
    }
    for name, text in texts.items():
        with atomic_path(output / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")


def read_kept(folder: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Return each video that `curate_folder` kept, with its captions; raises RequestError."""
    try:
        lines = (folder / "kept.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        kept = [(Path(entry["file"]), _captions(entry["captions"])) for entry in entries]
        if not kept:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} has no readable kept.jsonl ({error}): run hb-distill curate first"
        ) from error
    return kept
