"""Quantize a model of a world, and judge what its videos show before and after."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.evaluation import (
    FIRST_SEED,
    Evaluation,
    Target,
    require_known_words,
)
from hummingbird_edge.quantize.bundle import Judge, quantize_bundle
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.bundle.manifest import Manifest
from hummingbird_edge.runtime.request import Request

__all__ = ["captions_and_judge", "quantize_judged"]


def quantize_judged(
    source: Path,
    output: Path,
    evaluation: Evaluation[Target],
    *,
    precision: str = "fp32+int8",
    calibration: int = 16,
    held_out: int = 16,
    min_psnr_db: float = 36.0,
    captions: int = 400,
    seed: int = 0,
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Quantize the float32 bundle at `source` on captions of the world; writes `output`.

    The options are those of `hb-export quantize`; `captions` is the number of videos that are
    judged before and after. Raises BundleError, OutputError, or RequestError, for a
    model of another world too.
    """
    bundle = Bundle.open(source)
    prompts, judge = captions_and_judge(
        bundle.manifest, evaluation, captions, calibration + held_out, seed
    )
    require_known_words(bundle, [request.prompt for request in judge.requests])
    quantize_bundle(
        source,
        output,
        precision=precision,
        prompts=prompts,
        calibration=calibration,
        held_out=held_out,
        min_psnr=min_psnr_db,
        seed=seed,
        judge=judge,
        notify=report,
        force=force,
    )


def captions_and_judge(
    manifest: Manifest, evaluation: Evaluation[Target], captions: int, others: int, seed: int
) -> tuple[list[str], Judge]:
    """Return `others` unseen captions to quantize on, and a judge by `captions` more of them."""
    pairs = evaluation.sample(others + captions, seed)
    judged = pairs[others:]
    requests = [
        Request.for_model(manifest, caption, FIRST_SEED + index)
        for index, (_, caption) in enumerate(judged)
    ]

    def accuracy(videos: Sequence[NDArray[np.uint8]]) -> float:
        return evaluation.score(np.stack(videos), [target for target, _ in judged]).accuracy["all"]

    return [caption for _, caption in pairs[:others]], Judge(requests, accuracy)
