"""From a folder of captioned videos to clips that are worth training on.

OUT/kept.jsonl      {"file", "captions", "quality", "smoothness"} a clip, enriched
OUT/dropped.json    what was dropped and why, with the figures
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.clips import Clips
from hummingbird_edge.distill.enrich import Enricher
from hummingbird_edge.distill.filters import Measures, fingerprint, measure_video
from hummingbird_edge.distill.model import Model
from hummingbird_edge.distill.videos import TooShortError, find_videos, read_frames
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


def curate_folder(folder: Path, output: Path, enrich: Enricher, thresholds: Thresholds) -> Report:
    """Filter the videos of `folder`, enrich their captions and write what was kept and dropped.

    Raises RequestError where nothing is left, OutputError where nothing can be written.
    """
    kept: list[dict[str, object]] = []
    dropped: list[Dropped] = []
    prints: list[NDArray[np.bool_]] = []
    for video in find_videos(folder):
        name = video.path.relative_to(folder).as_posix()
        if not video.captions:
            dropped.append(Dropped(name, "no caption", "no NAME.txt and no metadata.jsonl entry"))
            continue
        try:
            frames = read_frames(video.path, MEASURED_FRAMES, MEASURED_SIDE, MEASURED_SIDE)
        except TooShortError as error:
            dropped.append(Dropped(name, "too short", str(error)))
            continue
        except ValueError as error:
            dropped.append(Dropped(name, "unreadable", str(error)))
            continue
        measures, mark = measure_video(frames), fingerprint(frames)
        reason = thresholds.reason(measures)
        if reason is None and any((mark ^ other).sum() < thresholds.copy for other in prints):
            reason = "copy of another"
        if reason is not None:
            detail = ", ".join(f"{k} {v:.2f}" for k, v in asdict(measures).items())
            dropped.append(Dropped(name, reason, detail))
            continue
        prints.append(mark)
        said = dict.fromkeys(text for c in video.captions for text in (c, *enrich(c)))
        path = str(video.path.resolve())
        kept.append({"file": path, "captions": list(said), **asdict(measures)})
    report = Report(len(kept), dropped)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.reasons())
        raise RequestError(
            f"no video of {folder} is left to train on ({reasons}): mend or add some"
        )
    _write(output, kept, dropped)
    return report


def _write(output: Path, kept: Sequence[object], dropped: Sequence[Dropped]) -> None:
    texts = {
        "kept.jsonl": "".join(json.dumps(entry) + "\n" for entry in kept),
        "dropped.json": json.dumps([asdict(entry) for entry in dropped], indent=2) + "\n",
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            partial = output / f"{name}.partial"
            partial.write_text(text, encoding="utf-8", newline="\n")
            partial.replace(output / name)
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error}): choose another") from error


def encode_curated(
    folder: Path,
    model_path: Path,
    output: Path,
    frames: int | None = None,
    size: tuple[int | None, int | None] = (None, None),
) -> None:
    """Encode the clips that `curate_folder` kept with a model's VAE; writes a `Clips` file."""
    try:
        lines = (folder / "kept.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        files = [(Path(entry["file"]), tuple(entry["captions"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} has no readable kept.jsonl ({error}): run hb-distill curate first"
        ) from error
    model = Model.read(model_path)
    defaults = model.config.defaults
    count, width, height = frames or defaults.frames, size[0], size[1]

    def batches() -> Iterator[torch.Tensor]:
        for path, _ in files:
            try:
                clip = read_frames(path, count, width or defaults.width, height or defaults.height)
            except ValueError as error:
                raise RequestError(f"{path} cannot be read: {error}; curate again") from error
            yield torch.from_numpy(clip).permute(0, 3, 1, 2)[None].float() / 255

    factor = model.config.vae.scaling_factor
    Clips.encoded(model.vae, batches(), [texts for _, texts in files], factor).write(output)
