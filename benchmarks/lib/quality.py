"""The agreement of videos that differ in device or precision alone."""

from dataclasses import replace

import numpy as np

from hummingbird_edge.benchmarks.lib.cases import VideoCase
from hummingbird_edge.benchmarks.lib.record import Row

__all__ = ["add_agreement"]

_BY_PRECISION = ("fp32", "fp16", "bf16", "int8")
"""The most precise first."""


def add_agreement(rows: list[Row], cases: dict[str, VideoCase]) -> list[Row]:
    """Add to each row the PSNR of its frames against the most precise row of the same shape.

    `cases` are the rows' by name.
    """
    done = [cases[row.name] for row in rows if not row.failure]
    references = dict[str, VideoCase]()
    for case in sorted(done, key=lambda case: _BY_PRECISION.index(case.label)):
        references.setdefault(case.shape, case)
    return [
        row if row.failure else _compared(row, cases[row.name], references[cases[row.name].shape])
        for row in rows
    ]


def _compared(row: Row, case: VideoCase, reference: VideoCase) -> Row:
    from hummingbird_edge.quantize.quality import compare

    if case == reference:
        return row
    frames, expected = np.load(case.frames_file), np.load(reference.frames_file)
    measures = {
        **row.measures,
        "agreement_db": (round(compare([frames], [expected]).median_db, 1),),
    }
    return replace(row, measures=measures, metadata={**row.metadata, "reference": reference.name})
