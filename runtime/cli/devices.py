"""`--list-devices` and `--tune`."""

import json
from typing import TYPE_CHECKING, Any

from hummingbird_edge.runtime.command import note, say

if TYPE_CHECKING:
    from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = ["print_devices", "tune_stages"]


def tune_stages(pipeline: "TextToVideo", asked: dict[str, Any], as_json: bool) -> None:
    """Measure the backends of each stage at the size of `asked`, and print the best."""
    from hummingbird_edge.runtime.placement.notices import Notices
    from hummingbird_edge.runtime.placement.tuning import Measurement, tune
    from hummingbird_edge.runtime.request import Request

    def report(measured: Measurement) -> None:
        energy = "" if measured.joules is None else f", {measured.joules:.3g} J"
        time = measured.failure or f"{measured.median_s:.3f} s, {measured.snr_db:.0f} dB{energy}"
        say(f"{measured.placement.stage} on {measured.placement.backend}: {time}")

    manifest = pipeline.bundle.manifest
    sizes = Request.for_model(manifest, "any", **asked).stage_sizes(manifest)
    planner = pipeline.stages.planner
    notices, limits = Notices(note, note), (planner.max_memory, planner.threads)
    best = tune(pipeline.bundle, sizes, report, notices, *limits)
    if planner.threads is not None and any(each.joules is None for each in best.values()):
        note("the system tells no joules of every device here: the fastest ones are remembered")
    if as_json:
        print(json.dumps({stage: measured.as_dict() for stage, measured in best.items()}))
        return
    for stage, measured in best.items():
        print(f"{stage}: {measured.placement.backend}, {measured.median_s:.3f} s")


def print_devices(as_json: bool) -> None:
    """Try out every device and print what works."""
    from dataclasses import asdict

    from hummingbird_edge.runtime.placement.probe import probe_all

    verdicts = probe_all()
    if as_json:
        print(json.dumps([asdict(verdict) for verdict in verdicts]))
        return
    for verdict in verdicts:
        state = "works" if verdict.works else "fails" if verdict.installed else "not installed"
        print(f"{verdict.device:<12} {state:<14} {verdict.reason}")
