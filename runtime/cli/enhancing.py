"""`--fast`, `--enhance`, `--upscaler` and `--interpolate`: what is done to a video's pixels."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hummingbird_edge.runtime.cli.jobs import DEFAULT_OUTPUT
from hummingbird_edge.runtime.command import say
from hummingbird_edge.runtime.errors import OutputError, RequestError

if TYPE_CHECKING:
    from hummingbird_edge.runtime.bundle.manifest import Manifest
    from hummingbird_edge.runtime.media.enhancement import Enhancement
    from hummingbird_edge.runtime.result import Video

__all__ = [
    "FAST",
    "FILE",
    "PLAIN",
    "Chosen",
    "enhance",
    "enhance_file",
    "fast_size",
    "kept_enhancement",
    "plan",
    "restored",
]

DEFAULT_FPS = 24
"""Of `--interpolate motion` without `--fps`."""
_OF_THE_MODEL = ("frames", "steps", "guidance", "seed", "decoder")
FAST, FILE, PLAIN = "hb-run --fast", "hb-run --enhance", "hb-run"
"""What asked for an enhancement."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options."""

    fast: bool = False
    upscaler: Path | None = None
    interpolate: str = "none"

    def __post_init__(self) -> None:
        if self.interpolate not in ("none", "motion"):
            raise RequestError(f"--interpolate is {self.interpolate!r}: choose none or motion")

    @property
    def names(self) -> list[str]:
        """The options that were given."""
        found = {
            "--fast": self.fast,
            "--upscaler": self.upscaler is not None,
            "--interpolate motion": self.interpolate != "none",
        }
        return [name for name, is_given in found.items() if is_given]

    def require_none(self, command: str) -> None:
        """Raise RequestError where one was given with a command that takes none."""
        if self.names:
            raise RequestError(
                f"{command} goes on with the video as it was begun: leave {self.names[0]} out, or "
                f"use it with hb-run --enhance VIDEO afterwards"
            )


def plan(
    chosen: Chosen, request: Mapping[str, Any], manifest: "Manifest"
) -> tuple[dict[str, Any], "Enhancement | None"]:
    """Return the settings of what is generated, and what is done to it afterwards.

    `request` has None where the user gave nothing. Raises RequestError.
    """
    if not chosen.names:
        return dict(request), None
    if chosen.upscaler is not None and not chosen.fast:
        raise RequestError(
            "--upscaler enlarges what is generated smaller: add --fast, or --enhance VIDEO"
        )
    from hummingbird_edge.runtime.media.enhancement import Enhancement

    defaults = manifest.defaults
    size = request["width"] or defaults.width, request["height"] or defaults.height
    generated, target_fps = size, None
    given = dict(request)
    if chosen.fast:
        generated = fast_size(size, manifest.model.size_divisor)
        given["width"], given["height"] = generated
    if chosen.interpolate == "motion":
        target_fps, given["fps"] = _target_fps(request["fps"], defaults.fps), None
    upscaler = _open(chosen.upscaler, generated)
    return given, Enhancement(*size, upscaler, target_fps, FAST if chosen.fast else PLAIN)


def fast_size(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """Return the width and height that are generated for a video of `size`.

    That is half of each where these divide by `divisor`. Else it is what shows most of the video's
    shape with no more than a quarter of its pixels, as time grows with pixels: 512x320 is made of
    256x128, whose middle 205x128 is shown. Raises RequestError where there is none.
    """
    width, height = size
    limit = width * height // 4
    found = [
        (wide, high)
        for wide in range(divisor, width, divisor)
        for high in range(divisor, limit // wide + 1, divisor)
    ]
    if not found:
        raise RequestError(
            f"--fast has nothing smaller to generate for {width}x{height}, as sizes divide by "
            f"{divisor}: leave it out, or choose a larger size"
        )
    return max(found, key=lambda each: (_shown(each, size), -each[0] * each[1]))


def _shown(generated: tuple[int, int], size: tuple[int, int]) -> float:
    """Return how many pixels of what is generated have a place in the video's shape."""
    from hummingbird_edge.runtime.media.upscaling import middle

    left, top, right, bottom = middle(*generated, *size)
    return round((right - left) * (bottom - top), 6)


def _target_fps(fps: int | None, source: int) -> int:
    if fps is not None and fps <= source:
        raise RequestError(
            f"--fps is {fps}, and --interpolate motion starts from {source}: give more, or leave "
            f"it out"
        )
    return fps or max(DEFAULT_FPS, 2 * source)


def _open(path: Path | None, size: tuple[int, int], device: str = "cpu") -> Any:
    """Return the upscaler at `path` after a trial for frames of `size`, or None."""
    if path is None:
        return None
    from hummingbird_edge.runtime.engines.upscaler import OnnxUpscaler

    upscaler = OnnxUpscaler(path, device)
    upscaler.try_out(*size)
    return upscaler


def enhance(video: "Video", enhancement: "Enhancement | None") -> "Video":
    """Return `video` enhanced, and say how long it took."""
    if enhancement is None:
        return video
    started = time.perf_counter()
    enhanced = video.with_enhancement(enhancement)
    _say_done(enhanced.frames.shape, enhanced.fps, time.perf_counter() - started)
    return enhanced


def _say_done(shape: tuple[int, ...], fps: int | None, seconds: float) -> None:
    size = f"{shape[2]}x{shape[1]}"
    say(f"enhanced to {shape[0]} frames of {size}, {fps} a second, in {seconds:.2f} s")


def kept_enhancement(enhancement: "Enhancement | None") -> dict[str, object]:
    """Return what a file for `--resume` keeps of it."""
    if enhancement is None:
        return {}
    upscaler: Any = enhancement.upscaler
    entry: dict[str, object] = {
        "width": enhancement.width,
        "height": enhancement.height,
        "fps": enhancement.fps,
        "by": enhancement.by,
    }
    if upscaler is not None:
        entry |= {"upscaler": os.fspath(upscaler.path.absolute()), "sha256": upscaler.sha256}
    return {"enhancement": entry}


def restored(origin: Mapping[str, object], settings: Mapping[str, object]) -> "Enhancement | None":
    """Return what `kept_enhancement` kept; raises OutputError or RequestError."""
    entry = origin.get("enhancement")
    if entry is None:
        return None
    from hummingbird_edge.runtime.media.enhancement import Enhancement

    try:
        assert isinstance(entry, dict)
        file = entry.get("upscaler")
        size = int(str(settings["width"])), int(str(settings["height"]))
        upscaler = _open(None if file is None else Path(str(file)), size)
        fps = entry["fps"]
        found = Enhancement(
            int(entry["width"]),
            int(entry["height"]),
            upscaler,
            None if fps is None else int(fps),
            str(entry["by"]),
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            "the file of latents does not say what --fast is to make of it: make the video again"
        ) from error
    if upscaler is not None and upscaler.sha256 != entry.get("sha256"):
        raise OutputError(
            f"the upscaler {file} has changed since the video was begun: put the old one back, or "
            f"make the video again"
        )
    return found


def enhance_file(
    source: Path,
    output: Path | None,
    request: Mapping[str, Any],
    chosen: Chosen,
    device: str,
    others: Mapping[str, object],
    as_json: bool,
) -> None:
    """Write the video at `source`, enhanced, to `output`, and print where it is.

    `request` has the size, None for twice the video's, and `fps`; `device` is the upscaler's;
    `others` are options that have no effect on a finished video. Raises RequestError, OutputError
    or DeviceError.
    """
    others = {**others, **{f"--{name}": request[name] for name in _OF_THE_MODEL}}
    if given := [name for name, value in others.items() if value]:
        raise RequestError(f"{given[0]} has no effect on a finished video: leave it out")
    output = DEFAULT_OUTPUT if output is None else output
    size = None if request["width"] is None else (request["width"], request["height"])
    device = _device_of_upscaler(device, chosen)
    settings = _enhance_file(source, output, size, request["fps"], chosen, device)
    entries = {"path": str(output), "settings": settings}
    print(json.dumps(entries) if as_json else output, flush=True)


def _device_of_upscaler(device: str, chosen: Chosen) -> str:
    """Return where `--upscaler` runs; raises RequestError where `--device` has no effect."""
    if device == "auto":
        return "cpu"
    if chosen.upscaler is None:
        raise RequestError(
            "--device is for a model, and without --upscaler a finished video goes through none: "
            "leave it out, or give --upscaler FILE"
        )
    if "=" in device:
        raise RequestError(
            f"--device is {device!r}, and an upscaler has no stages: give the name of one device"
        )
    return device


def _enhance_file(
    source: Path,
    output: Path,
    size: tuple[int, int] | None,
    fps: int | None,
    chosen: Chosen,
    device: str,
) -> dict[str, object]:
    """Do it, and return what is embedded in `output`."""
    from hummingbird_edge.runtime.media.enhancement import Enhancement, with_record
    from hummingbird_edge.runtime.media.video import check_output, read_frames, write_video

    if chosen.fast:
        raise RequestError("--fast is for a video that is generated: leave it out with --enhance")
    if fps is not None and chosen.interpolate == "none":
        raise RequestError(
            "--fps of a finished video changes by interpolation alone: add --interpolate motion, "
            "or leave it out"
        )
    if output.resolve() == source.resolve():
        raise RequestError(f"{output} is the video itself: name another file with --output")
    check_output(output, size)
    started, settings = time.perf_counter(), _settings(source)
    frames, now = read_frames(source, _recorded_fps(settings))
    height, width = frames.shape[1:3]
    target = _target_fps(fps, now) if chosen.interpolate == "motion" else None
    size = size or (2 * width, 2 * height)
    enhancement = Enhancement(*size, _open(chosen.upscaler, (width, height), device), target, FILE)
    record = enhancement.record(frames.shape, now)
    settings = with_record(settings, {**record, "of": source.suffix.lower()})
    frames, shown_fps = enhancement.apply(frames, now)
    write_video(output, frames, shown_fps, settings)
    _say_done(frames.shape, shown_fps, time.perf_counter() - started)
    return settings


def _settings(source: Path) -> dict[str, object]:
    """Return how a video says it was made; nothing for one of another program."""
    from hummingbird_edge.runtime.media.video import read_settings

    try:
        return read_settings(source)
    except OutputError:
        return {}


def _recorded_fps(settings: Mapping[str, object]) -> object:
    """Return the frames a second after all that was recorded."""
    from hummingbird_edge.runtime.media.enhancement import records

    fps = settings.get("fps")
    for record in records(settings):
        fps = record.get("fps", fps)
    return fps
