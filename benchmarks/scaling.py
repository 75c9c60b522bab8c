"""What a video costs as it grows: in frames, in pixels, in steps; time and memory.

    python benchmarks/scaling.py --quick                     the built-in model
    python benchmarks/scaling.py --full-size FOLDER --runs 1 hummingbird-0.7b
    python benchmarks/scaling.py BUNDLE --device openvino --precision int8

Starts from the bundle's default shape and changes one thing at a time: 8 to 32 frames, 256x256 to
768x512, 1 to 8 steps. Each row makes whole videos as `latency.py` does. The exponent is the slope
of log seconds over log size, by least squares: 1 is linear. Peak memory includes the weights and
what compiling takes, so that its exponent is far below that of the activations.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from hummingbird_edge.benchmarks.lib.engines import working_devices
from hummingbird_edge.benchmarks.lib.ledger import KEPT, Ledger, require_output
from hummingbird_edge.benchmarks.lib.options import BundleArgument, FullSize, Output
from hummingbird_edge.benchmarks.lib.record import Row
from hummingbird_edge.benchmarks.lib.subject import open_subject
from hummingbird_edge.benchmarks.lib.table import markdown
from hummingbird_edge.benchmarks.lib.video import cases, measure, request_for
from hummingbird_edge.runtime.bundle.bundle import Bundle
from hummingbird_edge.runtime.command import require_modules, run_command
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.request import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES, STEPS = (8, 12, 16, 24, 32), (1, 2, 4, 8)
SIZES = ((256, 256), (384, 256), (512, 320), (512, 512), (768, 512))
SMALL_FRAMES, SMALL_STEPS = (8, 16, 32), (1, 4, 8)
SMALL_SIZES = ((64, 64), (96, 64), (128, 80))

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def grown(bundle: Bundle, small: bool) -> Iterator[tuple[str, float, Request | Row]]:
    """Yield what grows, its size, and the video, or the row that says why there is none."""

    def video(**asked: Any) -> Request | Row:
        try:
            return request_for(bundle, **asked)
        except RequestError as error:
            return Row(
                ", ".join(f"{key} {value}" for key, value in asked.items()), failure=str(error)
            )

    for frames in SMALL_FRAMES if small else FRAMES:
        yield "frames", frames, video(frames=frames)
    for width, height in SMALL_SIZES if small else SIZES:
        yield "pixels", width * height, video(size=f"{width}x{height}")
    for steps in SMALL_STEPS if small else STEPS:
        yield "steps", steps, video(steps=steps)


def exponent(pairs: list[tuple[float, float]]) -> float:
    """Return the slope of log y over log x for pairs (x, y); NaN for fewer than two."""
    if len(pairs) < 2:
        return float("nan")
    x, y = np.log(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


def exponents(found: list[tuple[str, float, Row]]) -> dict[str, dict[str, float]]:
    """Return by what grows the exponents of seconds, of the U-Net's alone, and of memory."""
    by_kind: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(kind for kind, _, _ in found):
        rows = [(size, row) for each, size, row in found if each == kind and not row.failure]
        by_kind[kind] = {
            "computing": exponent([(size, row.median("computing_s")) for size, row in rows]),
            "unet": exponent([(size, row.median("unet_s")) for size, row in rows]),
            "memory": exponent([(size, row.median("peak_mib")) for size, row in rows]),
        }
    return by_kind


def table(found: list[tuple[str, float, Row]]) -> str:
    """Return the rows as Markdown, and the exponents."""
    lines = []
    for kind, _, row in found:
        if row.failure:
            lines.append([kind, row.name, f"failed: {row.failure}"])
            continue
        video = row["video_s"]
        lines.append(
            [
                kind,
                row.name,
                f"{row.median('unet_step_s'):.3f}",
                f"{row.median('decoder_s'):.3f}",
                f"{row.median('computing_s'):.3f}",
                f"{video.median:.3f}",
                f"{video.range:.3f}" if video.count > 1 else "one run",
                f"{row.median('peak_mib'):,.0f}",
            ]
        )
    header = ["grows", "", "a step, s", "decoder, s", "computing, s", "video, s", "spread, s"]
    fitted = [
        [kind, *(f"{value:.2f}" for value in slopes.values())]
        for kind, slopes in exponents(found).items()
    ]
    slopes = markdown(["exponents of", "computing", "U-Net", "peak memory"], fitted)
    return f"{markdown([*header, 'peak MiB'], lines)}\n\n{slopes}"


def draw_growth(axes: "Axes", found: list[tuple[str, float, Row]]) -> None:
    """Draw seconds over size, each relative to its smallest."""
    for kind, slopes in exponents(found).items():
        rows = [(size, row) for each, size, row in found if each == kind and not row.failure]
        if rows:
            first = rows[0][0]
            xs, ys = (
                [size / first for size, _ in rows],
                [row.median("computing_s") for _, row in rows],
            )
            axes.loglog(xs, ys, "o-", label=f"{kind}, exponent {slopes['computing']:.2f}")
    axes.set(xlabel="times the smallest", ylabel="computing, seconds")
    axes.legend(fontsize="small")


@app.command()
def main(
    bundle: BundleArgument = None,
    full_size: FullSize = None,
    device: Annotated[str | None, typer.Option(help="Else the last that works.")] = None,
    precision: Annotated[str, typer.Option(help="As latency.py takes it.")] = "auto",
    runs: Annotated[int, typer.Option(min=1, help="Warm videos a row.")] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in model, fewer and smaller shapes.")
    ] = False,
    output: Output = Path("scaling.json"),
) -> None:
    """Measure, print, write."""
    require_modules("benchmark", "matplotlib")
    require_output(output)
    if precision == "all":
        raise RequestError("--precision is all: one precision grows at a time, name it")
    subject = open_subject(bundle, full_size, quick)
    ledger = Ledger("scaling", subject, output)
    usual = subject.manifest.defaults
    found: list[tuple[str, float, Row]] = []
    known: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        named = [device or working_devices()[-1]]
        small = quick or max(usual.width, usual.height) < SIZES[0][0]
        for kind, size, request in grown(subject, small):
            if isinstance(request, Row):
                found.append((kind, size, ledger.add(request)))
                continue
            case = next(cases(subject, named, [precision], [request], runs, None, Path(folder)))
            if case.name not in known:  # the default shape is a point of every line
                known[case.name] = ledger.measure(measure, case, case.name)
            found.append((kind, size, known[case.name]))
    fitted = {
        f"{kind}_{what}": (value,)
        for kind, slopes in exponents(found).items()
        for what, value in slopes.items()
        if not np.isnan(value)
    }
    rows = [*ledger.rows, Row("exponents", fitted)]
    ledger.publish(rows, table(found), lambda axes: draw_growth(axes, found))


if __name__ == "__main__":
    run_command(app, "scaling.py", KEPT)
