"""Short videos with planted faults among good ones: what curation is measured on.

Good ones are clips of the world of moving shapes, and moves of a camera over procedural pictures,
with and without a thing that moves on them. A video is a function of its set's seed and its number.
"""

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.world.shapes.scene import World
from hummingbird_edge.runtime.media.video import write_video

__all__ = ["FAULTS", "Planted", "draw_video", "plan", "plant"]

Frames = NDArray[np.uint8]
Picture = NDArray[np.uint8]
Rng = np.random.Generator

FAULTS = ("blurred", "shaken", "dolly zoom", "duplicate", "cut", "static")
SHARE = 0.1
"""Of the videos, that each fault has."""
SIDE = 192
"""Pixels; some videos are a third wider."""
CANVAS = 3 * SIDE
FPS = 12


@dataclass(frozen=True, slots=True)
class Planted:
    """A video and what is wrong with it."""

    name: str
    fault: str
    """Nothing for a good one."""
    number: int
    """Of the video in its set; of a duplicate, of what it is a copy of."""
    cut: int = 0
    """The first frame of the second scene."""


def plan(count: int, seed: int) -> list[Planted]:
    """Return a set of `count` videos, with a tenth for each fault, in an order by chance."""
    rng = np.random.default_rng([seed, count])
    each = round(SHARE * count)
    faults = [fault for fault in FAULTS for _ in range(each)]
    faults += [""] * (count - len(faults))
    order, good, videos = rng.permutation(len(faults)), list[int](), list[Planted]()
    for number, fault in enumerate(faults[index] for index in order):
        suffix = ".webp" if rng.random() < 0.1 else ".mp4"
        name, cut, source = f"{number // 1000}/{number:05d}{suffix}", 0, number
        if fault == "duplicate" and good:
            source = good.pop(int(rng.integers(len(good))))
        elif fault in ("", "duplicate"):
            fault = ""
            good.append(number)
        if fault == "cut":
            cut = int(rng.integers(16, 25))
        videos.append(Planted(name, fault, source, cut))
    return videos


def plant(folder: Path, videos: Sequence[Planted], seed: int, workers: int = 1) -> None:
    """Write the videos that are not there yet, with captions, by as many processes."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = (
        json.dumps({"file_name": video.name, "text": f"video {index}"}) + "\n"
        for index, video in enumerate(videos)
    )
    (folder / "metadata.jsonl").write_text("".join(captions), encoding="utf-8")
    write = partial(_write_video, folder, seed)
    if workers == 1:
        for video in videos:
            write(video)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        for _ in pool.map(write, videos, chunksize=8):
            pass


def _write_video(folder: Path, seed: int, video: Planted) -> None:
    path = folder / video.name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, draw_video(video, seed), FPS, {})


def draw_video(video: Planted, seed: int) -> Frames:
    """Return the frames (T, H, W, 3) of a video."""
    rng = np.random.default_rng([seed, video.number])
    count = int(rng.integers(20, 33))
    wide = bool(rng.random() < 0.3) and video.fault != "cut"  # a world's clip is not
    if video.fault == "dolly zoom":
        return _dolly_zoom(rng, count, wide)
    frames = _good(rng, count, wide)
    fault_rng = np.random.default_rng([seed, video.number, 1])
    if video.fault == "blurred":
        return _blurred(fault_rng, frames)
    if video.fault == "shaken":
        return _shaken(fault_rng, frames)
    if video.fault == "duplicate":
        return _copied(fault_rng, frames)
    if video.fault == "static":
        return _frozen(fault_rng, frames)
    if video.fault == "cut":
        before = _good(rng, video.cut, wide)
        return np.concatenate([before, _good(rng, count, wide)])
    return frames


def _good(rng: Rng, count: int, wide: bool) -> Frames:
    kind = rng.choice(["world", "pan", "zoom", "turn", "thing", "thing and pan"])
    if kind == "world":
        return _world(rng, count)
    size = (SIDE * 4 // 3 if wide else SIDE, SIDE)
    picture, t = _picture(rng), np.arange(count)
    shift, scale, angle = np.zeros((count, 2)), np.ones(count), np.zeros(count)
    if "pan" in kind:
        direction = rng.uniform(0, 2 * np.pi)
        speed = rng.uniform(0.006, 0.02) * SIDE
        shift = speed * t[:, None] * np.array([np.cos(direction), np.sin(direction)])
        shift -= shift.mean(0)
    if kind == "zoom":
        scale = (1 + rng.uniform(0.2, 0.6)) ** ((t / (count - 1)) * rng.choice([-1, 1]))
    if kind == "turn":
        angle = rng.uniform(0.6, 2.0) * t * rng.choice([-1, 1])
    frames = _filmed(picture, size, shift, scale, angle)
    if "thing" in kind:
        _paste(rng, frames)
    return frames


def _world(rng: Rng, count: int) -> Frames:
    import torch

    from hummingbird_edge.distill.world.shapes.render import render

    world = World(resolution=SIDE, frames=count, pairs=0.3)
    scene = world.draw(random.Random(int(rng.integers(1 << 31))))
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    clip = render([scene], world, generator)[0]
    return (255 * clip).round().byte().permute(0, 2, 3, 1).numpy()


def _picture(rng: Rng) -> Picture:
    """Return a procedural picture (CANVAS, CANVAS, 3) with sharp edges and fine detail."""
    kind = rng.choice(["cells", "things", "clouds"])
    if kind == "cells":
        seeds = np.ones((CANVAS, CANVAS), np.uint8)
        count = int(rng.integers(80, 400))
        seeds[rng.integers(0, CANVAS, count), rng.integers(0, CANVAS, count)] = 0
        _, labels = cv2.distanceTransformWithLabels(
            seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        picture = rng.integers(0, 256, (labels.max() + 1, 3)).astype(np.uint8)[labels]
    elif kind == "things":
        picture = np.full((CANVAS, CANVAS, 3), rng.integers(0, 256, 3), np.uint8)
        for _ in range(int(rng.integers(150, 400))):
            _draw_thing(rng, picture)
    else:
        clouds = np.zeros((CANVAS, CANVAS, 3), np.float32)
        for octave in range(3, 9):
            noise = rng.random((2**octave, 2**octave, 3), np.float32) - 0.5
            size = (CANVAS, CANVAS)
            larger = cv2.resize(noise, size, interpolation=cv2.INTER_LINEAR)
            clouds += np.asarray(larger, np.float32) / 1.4**octave
        clouds = (clouds - clouds.min()) / np.ptp(clouds)
        picture = (255 * clouds).astype(np.uint8)
    grain = rng.normal(0, 4, picture.shape)
    found: Picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
    return found


def _draw_thing(rng: Rng, picture: Picture) -> None:
    x, y = (int(value) for value in rng.integers(0, CANVAS, 2))
    colour = [int(value) for value in rng.integers(0, 256, 3)]
    reach = int(rng.integers(6, 50))
    if rng.random() < 0.5:
        cv2.circle(picture, (x, y), reach, colour, -1, cv2.LINE_AA)
    else:
        cv2.rectangle(picture, (x, y), (x + reach, y + int(rng.integers(6, 50))), colour, -1)


def _filmed(
    picture: Picture,
    size: tuple[int, int],
    shift: NDArray[np.float64],
    scale: NDArray[np.float64],
    angle: NDArray[np.float64],
) -> Frames:
    """Film a picture: the frame's centre moves by `shift` pixels, turns by degrees and zooms."""
    frames = []
    for (x, y), s, a in zip(shift, scale, angle, strict=True):
        matrix = cv2.getRotationMatrix2D((CANVAS / 2 + x, CANVAS / 2 + y), a, s)
        matrix[:, 2] += np.array(size) / 2 - (CANVAS / 2 + x, CANVAS / 2 + y)
        frames.append(cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REFLECT))
    return np.stack(frames)


def _paste(rng: Rng, frames: Frames) -> None:
    """Move a textured disc across, on a straight line."""
    height, width = frames.shape[1:3]
    radius = int(rng.uniform(0.12, 0.25) * height)
    thing = _picture(rng)[: 2 * radius + 1, : 2 * radius + 1]
    begin, end = rng.uniform(0.2, 0.8, (2, 2)) * (width, height)
    way = end - begin  # as long as it must be to be seen to move
    end = begin + way * max(1.0, 0.3 * height / max(1.0, float(np.hypot(*way))))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = np.hypot(x, y) <= radius
    for index, frame in enumerate(frames):
        at = begin + (end - begin) * index / (len(frames) - 1)
        rows, columns = y[inside] + int(at[1]), x[inside] + int(at[0])
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        frame[rows[seen], columns[seen]] = thing[inside][seen]


def _blurred(rng: Rng, frames: Frames) -> Frames:
    sigma = rng.uniform(0.015, 0.03) * SIDE
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def _shaken(rng: Rng, frames: Frames) -> Frames:
    height, width = frames.shape[1:3]
    jolts = rng.uniform(-1, 1, (len(frames), 2)) * rng.uniform(0.04, 0.1) * height
    return np.stack(
        [
            cv2.warpAffine(
                frame,
                np.array([[1, 0, x], [0, 1, y]], np.float32),
                (width, height),
                borderMode=cv2.BORDER_REPLICATE,
            )
            for frame, (x, y) in zip(frames, jolts, strict=True)
        ]
    )


def _dolly_zoom(rng: Rng, count: int, wide: bool) -> Frames:
    size = (SIDE * 4 // 3 if wide else SIDE, SIDE)
    t = np.arange(count) / (count - 1)
    scale = (1 + rng.uniform(0.3, 0.7)) ** (t * rng.choice([-1, 1]))
    still = np.zeros(count)
    ground = _filmed(_picture(rng), size, np.zeros((count, 2)), scale, still)
    subject = _filmed(_picture(rng), size, np.zeros((count, 2)), np.ones(count), still)
    mask = np.zeros((size[1], size[0]), np.uint8)
    centre = (size[0] // 2 + int(rng.integers(-8, 9)), size[1] // 2 + int(rng.integers(-8, 9)))
    axes = tuple(int(SIDE * rng.uniform(0.2, 0.3)) for _ in range(2))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    return np.where(mask[None, ..., None] == 1, subject, ground)


def _copied(rng: Rng, frames: Frames) -> Frames:
    """Return frames as another encoder, player or editor would leave them."""
    gain, quality = rng.uniform(0.92, 1.08), int(rng.integers(50, 90))
    scale = rng.choice([0.75, 1.0, 1.25])
    return np.stack(list(_recoded(frames, float(gain), quality, float(scale))))


def _recoded(frames: Frames, gain: float, quality: int, scale: float) -> Iterator[Picture]:
    for frame in frames:
        bright = np.clip(gain * frame, 0, 255).astype(np.uint8)
        sized = cv2.resize(bright, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, coded = cv2.imencode(".jpg", sized, [cv2.IMWRITE_JPEG_QUALITY, quality])
        yield np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


def _frozen(rng: Rng, frames: Frames) -> Frames:
    """Return one frame with a sensor's noise and a lamp's flicker."""
    picture = frames[len(frames) // 2].astype(np.float32)
    level, flicker = rng.uniform(0, 3), rng.uniform(0, 0.02)
    moments = [
        picture * (1 + flicker * rng.normal()) + level * rng.standard_normal(picture.shape)
        for _ in frames
    ]
    found: Frames = np.clip(np.stack(moments), 0, 255).astype(np.uint8)
    return found
