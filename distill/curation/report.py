"""What became of the clips of a folder: how many each stage got, and what each took."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.distill.curation.filters import FAULTS

__all__ = ["MEASURES", "SCORING", "Report"]

SCORING = ("read", "quality", "motion", "fingerprint")
"""The stages that `Candidate.seconds` are of."""
MEASURES = ("quality", "change", "smoothness", "zoom", "dolly")
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True, slots=True)
class Report:
    """The clips of a folder by name, each with its verdict."""

    clips: Sequence[Candidate]

    @property
    def kept(self) -> list[Candidate]:
        """The clips that are worth training on."""
        return [clip for clip in self.clips if not clip.verdict]

    @property
    def dropped(self) -> list[Candidate]:
        """The clips that are not."""
        return [clip for clip in self.clips if clip.verdict]

    def reasons(self) -> list[tuple[str, int]]:
        """Return each reason with how many clips it dropped, the commonest first."""
        return Counter(clip.verdict for clip in self.dropped).most_common()

    def table(self) -> str:
        """Return a Markdown table: how many were kept, how many dropped for each reason."""
        lines = ["| clips | |", "|---|---|", f"| kept | {len(self.kept)} |"]
        lines += [f"| dropped: {reason} | {count} |" for reason, count in self.reasons()]
        return "\n".join(lines)

    def measures(self) -> str:
        """Return a Markdown table: percentiles of what was measured."""
        lines = [f"| | {' | '.join(f'{each} %' for each in _PERCENTILES)} |"]
        lines += ["|---" * (1 + len(_PERCENTILES)) + "|"]
        for name, values in self._percentiles().items():
            lines.append(f"| {name} | {' | '.join(f'{value:.3g}' for value in values)} |")
        return "\n".join(lines)

    def statistics(self) -> dict[str, object]:
        """Return JSON values: stages, filters in their order, percentiles of what was measured."""
        seconds = [clip.seconds for clip in self.clips if len(clip.seconds) == len(SCORING)]
        totals = np.array(seconds).reshape(-1, len(SCORING)).sum(0).tolist()
        counts = Counter(clip.verdict for clip in self.clips)
        left = [*accumulate((-counts[fault] for fault in FAULTS), initial=len(self.clips))]
        return {
            "videos": sum(clip.is_last for clip in self.clips),
            "clips": len(self.clips),
            "kept": counts[""],
            "scoring": [
                {"stage": stage, "clips": len(seconds), "seconds": round(total, 3)}
                for stage, total in zip(SCORING, totals, strict=True)
            ],
            "filters": [
                {"fault": fault, "clips": before, "passed": after}
                for fault, before, after in zip(FAULTS, left, left[1:], strict=False)
            ],
            "percentiles": {"of": _PERCENTILES, **self._percentiles()},
        }

    def _percentiles(self) -> dict[str, list[float]]:
        measured = [clip for clip in self.clips if not clip.fault]
        return {
            name: np.percentile([getattr(c, name) for c in measured], _PERCENTILES).tolist()
            for name in MEASURES
            if measured
        }
