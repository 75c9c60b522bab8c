"""Score a run: a row a dimension, a reason where there is no score, and what they add up to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.table import format_number, markdown_table
from hummingbird_edge.benchmarks.lib.vbench.dimensions import (
    BY_NAME,
    DIMENSIONS,
    FLICKER,
    OWN_PROMPTS,
)
from hummingbird_edge.benchmarks.lib.vbench.evaluator import Evaluator
from hummingbird_edge.benchmarks.lib.vbench.flicker import mean_flicker
from hummingbird_edge.benchmarks.lib.vbench.run import Run
from hummingbird_edge.benchmarks.lib.vbench.suite import Sample
from hummingbird_edge.benchmarks.lib.vbench.totals import PUBLISHED, Totals
from hummingbird_edge.runtime.errors import HummingbirdError, RequestError

__all__ = ["Scoring", "score_table", "totals_of", "totals_table"]

_UNFILTERED = "videos that move are in it: give --filtered FOLDER"


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a run is scored."""

    run: Run
    evaluator: Evaluator | None = None
    """None where there are no weights."""
    filtered: Path | None = None
    """What `vbench static_filter` kept of the videos for temporal flickering."""

    def rows(self, names: Sequence[str]) -> Iterator[Row]:
        """Yield the row of each dimension: its score in [0, 1], or why there is none.

        `gap` in a row's metadata says why a score does not count for a total.
        """
        for name in names:
            asked = self.run.evaluated(name)
            made = [sample for sample in asked if self._path(name, sample).exists()]
            metadata: dict[str, object] = {"videos": len(made), "of": len(asked)}
            try:
                score = self._score(name, made)
            except HummingbirdError as error:
                yield Row(BY_NAME[name].title, metadata=metadata, failure=str(error))
                continue
            metadata["gap"] = self._gap(name, len(asked) - len(made))
            yield Row(BY_NAME[name].title, {"score": (score,)}, metadata)

    def _path(self, name: str, sample: Sample) -> Path:
        if name == FLICKER and self.filtered is not None:
            return self.filtered / Path(sample.file).name
        return self.run.path(sample)

    def _score(self, name: str, made: Sequence[Sample]) -> float:
        """Return the score of these videos; raises HummingbirdError with the reason for none."""
        if not self.run.is_official and name not in (*OWN_PROMPTS, FLICKER):
            raise RequestError("needs the official prompts")
        if not made:
            raise RequestError("has no videos")
        if name == FLICKER:
            return mean_flicker([self._path(name, sample) for sample in made])
        if self.evaluator is None:
            raise RequestError(f"needs --weights FOLDER with {BY_NAME[name].weights[0]}")
        return self.evaluator.score(self.run, name, made)

    def _gap(self, name: str, missing: int) -> str:
        if missing:
            return f"{missing} videos are missing"
        if not self.run.is_official:
            return "other prompts than the official ones"
        return _UNFILTERED if name == FLICKER and self.filtered is None else ""


def totals_of(rows: Sequence[Row]) -> Totals:
    """Return what the rows without a gap add up to."""
    scores = {row.name: row.median("score") for row in rows if row.measures}
    whole = {row.name for row in rows if not row.metadata.get("gap")}
    return Totals.of(
        {each.name: scores[each.title] for each in DIMENSIONS if each.title in whole & set(scores)}
    )


def score_table(rows: Sequence[Row]) -> str:
    """Return a line a dimension: score and normalized score in percent, videos, what is missing."""
    by_title = {each.title: each for each in DIMENSIONS}
    lines = []
    for row in rows:
        videos = f"{row.metadata['videos']} of {row.metadata['of']}"
        score = row.median("score")
        numbers = [
            format_number(100 * each, "{:.2f}")
            for each in (score, by_title[row.name].normalized(score))
        ]
        lines.append([row.name, *numbers, videos, row.failure or str(row.metadata["gap"])])
    return markdown_table(["", "score, %", "normalized, %", "videos", "note"], lines)


def totals_table(found: Totals) -> str:
    """Return these totals beside the published ones; empty where a dimension is incomplete."""
    lines = [
        [
            name,
            *("" if x is None else f"{x:.2f}" for x in (each.quality, each.semantic, each.total)),
        ]
        for name, each in {"this run": found, **PUBLISHED}.items()
    ]
    note = "" if found.total is not None else "\n\nNo total: not all 16 dimensions are complete."
    return markdown_table(["", "quality, %", "semantic, %", "total, %"], lines) + note
