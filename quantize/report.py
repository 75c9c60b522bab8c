"""The report of a quantization: Markdown and a plot for people, JSON for programs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hummingbird_edge.quantize.quality import Quality
from hummingbird_edge.quantize.search import MIN_LAYER_DB

__all__ = ["PLOT", "REPORT", "TABLE", "Accuracy", "LayerRow", "Report"]

REPORT, TABLE, PLOT = "quantization.json", "QUANTIZATION.md", "quantization.png"
_WORST = 12


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer."""

    stage: str
    name: str
    kind: str
    weight: tuple[int, ...]
    """Shape of its weight."""
    work: float
    """Multiplications in all measured runs."""
    snr_db: float
    """Of its output with only it quantized."""
    kept: bool
    """Whether it stays in higher precision."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of videos that show all their prompts ask for, where a judge can tell."""

    videos: int
    before: float
    """The share of them in float32, in [0, 1]."""
    after: float


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one quantization."""

    name: str
    precisions: Mapping[str, tuple[str, ...]]
    """By stage."""
    megabytes: Mapping[str, Mapping[str, float]]
    """By stage, before and after."""
    trajectories: int
    held_out: int
    min_psnr_db: float
    tried: tuple[tuple[int, float], ...]
    """Layers kept and the PSNR, in the order of the search."""
    quality: Mapping[str, Quality]
    """Of decoded frames against float32: of the whole `video`, and with one stage alone quantized.
    Empty without held-out videos."""
    accuracy: Accuracy | None
    layers: tuple[LayerRow, ...]

    def write(self, folder: Path) -> None:
        """Write all three files into `folder`; raises OSError."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8", newline="\n")
        (folder / TABLE).write_text(self._markdown(), encoding="utf-8", newline="\n")
        if self.layers:
            self._plot(folder / PLOT)

    def _markdown(self) -> str:
        kept = [row for row in self.layers if row.kept]
        lines = [
            f"# {self.name}, quantized",
            "",
            "| stage | precisions | MB before | MB now |",
            "|---|---|---|---|",
        ]
        for stage, names in self.precisions.items():
            sizes = self.megabytes[stage]
            lines.append(
                f"| {stage} | {', '.join(names)} | {sizes['before']:.1f} | {sizes['after']:.1f} |"
            )
        if self.quality:
            lines += [
                "",
                f"Frames against float32, {self.held_out} videos that calibration did not see:",
                "",
                "| quantized | median PSNR, dB | lowest | median SSIM |",
                "|---|---|---|---|",
            ]
            lines += [
                f"| {'all stages' if name == 'video' else f'{name} alone'} | "
                f"{found.median_db:.1f} | {min(found.psnr_db):.1f} | {found.median_ssim:.4f} |"
                for name, found in self.quality.items()
            ]
        if self.tried:
            lines += ["", f"The search was to reach {self.min_psnr_db:g} dB."]
        if (counted := self.accuracy) is not None:
            lines += [
                "",
                f"{100 * counted.before:.1f} % of {counted.videos} videos showed all that was "
                f"requested in float32, {100 * counted.after:.1f} % do now.",
            ]
        if not self.layers:
            if self.trajectories:
                lines += ["", f"All layers are in int8, from {self.trajectories} trajectories."]
            return "\n".join([*lines, ""])
        lines += [
            "",
            f"{len(self.layers) - len(kept)} of {len(self.layers)} layers are in int8, from "
            f"{self.trajectories} trajectories. A layer stays in higher precision where its own "
            f"signal-to-noise ratio is below {MIN_LAYER_DB:g} dB, or where the frames need it.",
            "",
            f"![Signal-to-noise ratio of every layer]({PLOT})",
            "",
            "| layer that loses most | weight | SNR, dB | |",
            "|---|---|---|---|",
        ]
        worst = sorted(self.layers, key=lambda row: (not row.kept, row.snr_db))
        for row in worst[: max(_WORST, len(kept))]:
            shape, state = " x ".join(map(str, row.weight)), "kept" if row.kept else "int8"
            lines.append(f"| {row.stage}/{row.name} | {shape} | {row.snr_db:.1f} | {state} |")
        return "\n".join([*lines, ""])

    def _plot(self, path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots()
        start = 0
        for stage in dict.fromkeys(row.stage for row in self.layers):
            rows = [row for row in self.layers if row.stage == stage]
            places = range(start, start + len(rows))
            axes.plot(places, [row.snr_db for row in rows], ".", label=f"{stage}, int8")
            kept = [(x, row.snr_db) for x, row in zip(places, rows, strict=True) if row.kept]
            if kept:
                axes.plot(*zip(*kept, strict=True), "kx", label=f"{stage}, kept")
            start += len(rows)
        axes.axhline(MIN_LAYER_DB, color="grey", linewidth=0.8, linestyle="--")
        axes.set(xlabel="layer, in the order of the graphs", ylabel="SNR in dB")
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=110, metadata={"Software": None})
