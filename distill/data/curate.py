"""From a folder of captioned videos to clips that are worth training on.

Every video examined is noted at once (OUT/examined.jsonl), so that a run that was stopped goes on
with the next one: decoding is slow, and so is a language model.

OUT/kept.jsonl      {"file", "captions", "quality", "smoothness"} a clip, enriched
OUT/dropped.json    what was dropped and why, with the figures
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.data.enrich import Enricher
from hummingbird_edge.distill.data.filters import Measures, fingerprint, measure_video
from hummingbird_edge.distill.data.videos import (
    CaptionedVideo,
    TooShortError,
    find_videos,
    read_frames,
)
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import device
from hummingbird_edge.runtime.errors import OutputError, RequestError

__all__ = ["Report", "Thresholds", "curate_folder", "encode_curated"]

MEASURED_FRAMES, MEASURED_SIDE = 16, 192


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a clip must reach to be kept."""

    quality: float = 0.2
    smoothness: float = 0.5
    dolly: float = 0.15
    """Most that the border may grow beyond the middle over a clip."""
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

    def facts(self) -> dict[str, object]:
        """Return its line of kept.jsonl."""
        return {"file": self.file, "captions": list(self.captions), **self.measures}

    def to_dict(self) -> dict[str, object]:
        """Return all of it as JSON has it."""
        parts = {"file": self.file, "captions": list(self.captions), "measures": self.measures}
        return {**parts, "print": np.packbits(self.print).tobytes().hex()}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Kept":
        """Return what `to_dict` gave."""
        mark = np.unpackbits(np.frombuffer(bytes.fromhex(entry["print"]), np.uint8)).astype(bool)
        return cls(entry["file"], tuple(entry["captions"]), entry["measures"], mark)


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a folder."""

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
    """Filter the videos of `folder`, enrich their captions and write what was kept and dropped.

    `report` hears how many videos were examined, of how many. Raises RequestError where nothing is
    left, OutputError where nothing can be written.
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
            f"no video of {folder} is left to train on ({reasons}; {first}): mend or add some"
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
    said = dict.fromkeys(text for c in video.captions for text in (c, *enrich(c)))
    return Kept(str(video.path.resolve()), tuple(said), asdict(measures), mark)


def _captions(entry: Any) -> tuple[str, ...]:
    """Return the captions of a line of kept.jsonl; raises ValueError where they are none."""
    if not isinstance(entry, list) or not entry or not all(isinstance(x, str) for x in entry):
        raise ValueError(f"captions are {entry!r}")
    return tuple(entry)


def _key(video: CaptionedVideo) -> str:
    """Return what changes whenever the video, or what is said of it, does."""
    facts = video.path.stat()
    return json.dumps([str(video.path), facts.st_size, facts.st_mtime_ns, video.captions])


class Journal:
    """What is known of the videos examined so far, one JSON object a line, whatever happens."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path, self.known = path, dict[str, Kept | Dropped]()
        head = json.dumps(settings)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines[:1] != [head]:  # other settings: examined anew
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
        """Return what was found of a video, or None."""
        return self.known.get(key)

    def add(self, key: str, found: Kept | Dropped) -> None:
        """Note what was found of a video, at once."""
        entry = found.to_dict() if isinstance(found, Kept) else asdict(found)
        self.file.write(json.dumps({"key": key, **entry}) + "\n")
        self.file.flush()


def _write(output: Path, kept: Sequence[Kept], dropped: Sequence[Dropped]) -> None:
    texts = {
        "kept.jsonl": "".join(json.dumps(entry.facts()) + "\n" for entry in kept),
        "dropped.json": json.dumps([asdict(entry) for entry in dropped], indent=2) + "\n",
    }
    for name, text in texts.items():
        partial = output / f"{name}.partial"
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(output / name)


def encode_curated(
    folder: Path,
    model_path: Path,
    output: Path,
    frames: int | None = None,
    size: tuple[int | None, int | None] = (None, None),
    report: Callable[[int, int], None] = lambda done, count: None,
) -> None:
    """Encode the clips that `curate_folder` kept with a model's VAE; writes a `Clips` file.

    Raises RequestError for a size that the model cannot take, or clips that cannot be read.
    """
    try:
        lines = (folder / "kept.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        files = [(Path(entry["file"]), _captions(entry["captions"])) for entry in entries]
        if not files:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} has no readable kept.jsonl ({error}): run hb-distill curate first"
        ) from error
    model = Model.read(model_path).frozen(device())
    config, defaults = model.config, model.config.defaults
    count = defaults.frames if frames is None else frames
    width = defaults.width if size[0] is None else size[0]
    height = defaults.height if size[1] is None else size[1]
    multiple = config.vae.downsampling * config.unet.downsampling
    if min(count, width, height) < 1 or width % multiple or height % multiple:
        raise RequestError(
            f"{count} frames of {width}x{height} are asked for: the model takes 1 frame and more, "
            f"sizes that divide by {multiple}"
        )

    def batches() -> Iterator[torch.Tensor]:
        for done, (path, _) in enumerate(files, 1):
            try:
                clip = read_frames(path, count, width, height)
            except TooShortError as error:
                raise RequestError(f"{path} has {error}: ask for fewer --frames") from error
            except ValueError as error:
                raise RequestError(f"{path} cannot be read: {error}; curate again") from error
            report(done, len(files))
            yield torch.from_numpy(clip).permute(0, 3, 1, 2)[None].float() / 255

    factor = config.vae.scaling_factor
    Clips.encoded(model.vae, batches(), [texts for _, texts in files], factor).write(output)
