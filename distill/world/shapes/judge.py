"""Name what a clip of one or two moving shapes shows, from its pixels alone.

The judge shares no code with the renderer: colours are named by hue, shapes by their rotational
symmetry, motions by the path of the centre. It takes soft, slightly noisy frames.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.world.shapes.blobs import SPECK, Floats, Mask, find_blobs, shrunk

__all__ = ["ATTRIBUTES", "Reading", "Seen", "Track", "Verdict", "judge", "read_clip", "score"]

ATTRIBUTES = ("background", "colour", "shape", "size", "motion")

FAINTEST = 0.2  # contrast, in RGB distance, under which there is no object
LARGE = 0.085  # of the frame; an object that covers this much is large
TRAVEL = 0.1  # of the frame's side; a centre that stays within this has not moved
SECOND = 0.1  # of the painted pixels; a second colour on fewer is no object
TURN = 0.7  # radians; less is not a spin
# Upper ends of the hues, in degrees from -15; what lies beyond purple is pink, which no object is.
HUES = {
    "red": 15,
    "orange": 44,
    "yellow": 75,
    "green": 160,
    "cyan": 208,
    "blue": 256,
    "purple": 310,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """Hold what the judge saw of one object: a name, or None where it cannot tell."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    motion: str | None = None
    area: float = 0.0  # the largest it gets, as a fraction of the frame
    turn: float = 0.0  # radians, clockwise
    path: tuple[tuple[float, float], ...] = ()  # the centre (x, y), in frame sides from top left


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold what the judge saw in a clip."""

    background: str | None = None
    actors: tuple[Seen, ...] = ()  # the upper or the left one first; one of each colour
    count: int = 0  # objects in a typical frame


@dataclass(frozen=True, slots=True)
class Track:
    area: Floats  # (T,) fraction of the frame
    centre: Floats  # (T, 2) x and y, in frame sides
    fill: Floats  # (T,) 1 for a disc, less the further the area lies from the centre
    symmetry: NDArray[np.complex128]  # (T, 3) moments of 3, 4 and 5-fold symmetry


@dataclass(frozen=True, slots=True)
class Reading:
    """Hold the measurements behind a verdict: `tracks` and `paints` have one entry an object."""

    ground: Floats  # (3,) RGB in [0, 1]
    paints: tuple[Floats, ...]  # (3,) RGB in [0, 1]
    tracks: tuple[Track, ...]
    weights: tuple[Floats, ...]  # (T, H, W) in [0, 1], how much of each pixel is the object's
    seen: tuple[Mask, ...]  # (T,), the frames that have it: those of its track
    count: int


def read_clip(frames: NDArray[np.uint8]) -> Reading | None:
    """Measure `frames` (T, H, W, 3) uint8; None where nothing stands out from a plain ground."""
    clip = frames.astype(np.float64) / 255
    ground = background_colour(clip)
    if ground is None:
        return None
    paints = object_colours(clip, ground)
    if not paints:
        return None
    blobs = [find_blobs(x) for x in likenesses(clip, ground, paints)]
    shown = [i for i, blob in enumerate(blobs) if (blob.area > SPECK).mean() >= 0.75]
    return Reading(
        ground,
        tuple(paints[i] for i in shown),
        tuple(follow(blobs[i].weight[blobs[i].area > SPECK]) for i in shown),
        tuple(blobs[i].weight for i in shown),
        tuple(blobs[i].area > SPECK for i in shown),
        sum(blob.count for blob in blobs),
    )


def judge(frames: NDArray[np.uint8]) -> Verdict:
    """Name what `frames` (T, H, W, 3) uint8 show; nothing is named when nothing stands out."""
    reading = read_clip(frames)
    if reading is None:
        return Verdict()
    seen = [see(*pair) for pair in zip(reading.paints, reading.tracks, strict=True)]
    if len(seen) > 1:
        middles = np.array([np.mean(track.centre, axis=0) for track in reading.tracks])
        axis = int(np.argmax(np.ptp(middles, axis=0)))
        seen = [seen[i] for i in np.argsort(middles[:, axis])]
    return Verdict(name_background(reading.ground), tuple(seen), reading.count)


def see(paint: Floats, track: Track) -> Seen:
    shape = name_shape(track)
    turn = turned(track, shape)
    area = float(np.quantile(track.area, 0.95))
    return Seen(
        colour=name_colour(paint),
        shape=shape,
        size="large" if area > LARGE else "small",
        motion=name_motion(track, turn),
        area=area,
        turn=turn,
        path=tuple((float(x), float(y)) for x, y in track.centre),
    )


def score(
    verdict: Verdict, background: str, actors: Sequence[Mapping[str, str]]
) -> dict[str, bool]:
    """Compare `verdict` with the caption's scene: each of ATTRIBUTES, the count, and `all`.

    An attribute is right when it is so of every actor, in their order.
    """
    right = {"background": verdict.background == background}
    complete = len(verdict.actors) == len(actors)
    pairs = list(zip(verdict.actors, actors, strict=False))
    for name in ATTRIBUTES[1:]:
        right[name] = complete and all(getattr(seen, name) == actor[name] for seen, actor in pairs)
    right["count"] = verdict.count == len(actors)
    return {**right, "all": all(right.values())}


def background_colour(clip: Floats) -> Floats | None:
    border = np.concatenate(
        [clip[:, :2], clip[:, -2:], clip[:, :, :2].swapaxes(1, 2), clip[:, :, -2:].swapaxes(1, 2)],
        axis=1,
    ).reshape(-1, 3)
    colour: Floats = np.median(border, axis=0)
    even = np.linalg.norm(border - colour, axis=-1) < FAINTEST
    return colour if even.mean() > 0.7 else None


def object_colours(clip: Floats, ground: Floats) -> list[Floats]:
    """Return the colours that stand out: none, one, or two with the commoner first."""
    contrast = np.linalg.norm(clip - ground, axis=-1)
    strong = float(np.quantile(contrast, 0.995))
    if strong < FAINTEST:
        return []
    first: Floats = np.median(clip[contrast > 0.85 * strong], axis=0)
    inside = clip[shrunk(contrast > 0.4 * strong)]
    other = inside[distance_to(inside, ground, first) > FAINTEST]
    if len(other) < SECOND * len(inside):
        return [first]
    return [first, np.median(other, axis=0)]


def distance_to(pixels: Floats, ground: Floats, paint: Floats) -> Floats:
    """Return how far pixels (..., 3) are from every mixture of `ground` and `paint`."""
    along = paint - ground
    share = np.clip((pixels - ground) @ along / (along @ along), 0, 1)
    distance: Floats = np.linalg.norm(pixels - ground - share[..., None] * along, axis=-1)
    return distance


def likenesses(clip: Floats, ground: Floats, paints: Sequence[Floats]) -> list[Floats]:
    """Return for each paint how much of each pixel it covers, (T, H, W): 0 none, 1 all."""
    shares = [(clip - ground) @ (p - ground) / np.sum((p - ground) ** 2) for p in paints]
    if len(paints) == 1:
        return shares
    nearest = np.argmin([distance_to(clip, ground, paint) for paint in paints], axis=0)
    return [np.where(nearest == i, share, 0.0) for i, share in enumerate(shares)]


def hsv(colour: Floats) -> tuple[float, float, float]:
    """Return the hue in degrees from -15 to 345, saturation and value in [0, 1]."""
    red, green, blue = (float(c) for c in colour)
    # The hexagonal projection: its angle is the hue, and no case by largest channel is needed.
    hue = math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue))
    value = max(red, green, blue)
    return (hue + 15) % 360 - 15, 1 - min(red, green, blue) / max(value, 1e-6), value


def name_colour(colour: Floats) -> str | None:
    hue, saturation, value = hsv(colour)
    if saturation < 0.4 or value < 0.25:
        return None
    return next((name for name, end in HUES.items() if hue < end), None)


def name_background(colour: Floats) -> str | None:
    hue, saturation, value = hsv(colour)
    if value < 0.22:
        return "black"
    if saturation < 0.16:
        return "white" if value > 0.8 else "gray" if value < 0.7 else None
    pinkish = hue > 295 or hue < 10
    return "pink" if pinkish and saturation < 0.6 and value > 0.65 else None


def follow(weight: Floats) -> Track:
    """Measure the object's area, centre and moments in every frame of `weight` (T, H, W)."""
    height, width = weight.shape[1:]
    mass = weight.sum((1, 2))
    grid = (np.arange(width) + 0.5)[None, :] + 1j * (np.arange(height) + 0.5)[:, None]
    middle = np.einsum("thw,hw->t", weight, grid) / mass
    offset = grid - middle[:, None, None]
    spread = np.einsum("thw,thw->t", weight, np.abs(offset) ** 2) / mass
    moments = [
        np.einsum("thw,thw->t", weight, offset**fold) / mass / spread ** (fold / 2)
        for fold in (3, 4, 5)
    ]
    return Track(
        area=mass / (height * width),
        centre=np.stack([middle.real / width, middle.imag / height], -1),
        fill=mass / (2 * np.pi * spread),
        symmetry=np.stack(moments, -1),
    )


def name_shape(track: Track) -> str | None:
    """Name the shape by its strongest symmetry, and by how compact it is; orientation is free."""
    clear = track.area > 0.8 * track.area.max()
    fill = float(np.median(track.fill[clear]))
    moments = np.median(np.abs(track.symmetry[clear]), axis=0)
    typical = np.array([0.8, 0.6, 1.8])  # of a triangle, a square and a five-pointed star
    strength = moments / typical
    fold = 3 + int(strength.argmax())
    if strength.max() < 0.3:
        return "circle" if fill > 0.93 else None
    if strength.max() < 0.5:
        return None
    if fold == 4:
        return "square" if fill > 0.895 else "cross"
    return "triangle" if fold == 3 else "star"


def turned(track: Track, shape: str | None) -> float:
    """Return the angle the object turns through, by the phase of its own symmetry."""
    fold = {"triangle": 3, "square": 4, "cross": 4, "star": 5}.get(shape or "")
    if fold is None:
        return 0.0
    phase = np.unwrap(np.angle(track.symmetry[:, fold - 3])) / fold
    return float(phase[-1] - phase[0])


def name_motion(track: Track, turn: float) -> str | None:
    quarter = max(len(track.area) // 4, 1)
    growth = track.area[-quarter:].mean() / track.area[:quarter].mean()
    if growth > 2:
        return "growing"
    if growth < 0.5:
        return "shrinking"
    x, y = np.ptp(track.centre, axis=0)
    if max(x, y) < TRAVEL:
        return "spinning" if abs(turn) > TURN else None
    if min(x, y) > 0.5 * max(x, y):
        return "circling" if goes_round(track.centre) else None
    if x > y:
        return along(track.centre[:, 0], "right", "left", None)
    return along(track.centre[:, 1], "down", "up", "bouncing")


def goes_round(path: Floats) -> bool:
    around = path - (path.max(0) + path.min(0)) / 2
    angle = np.unwrap(np.arctan2(around[:, 1], around[:, 0]))
    return bool(abs(angle[-1] - angle[0]) > 1.5 * np.pi)


def along(path: Floats, forth: str, back: str, both: str | None) -> str | None:
    net, reach = path[-1] - path[0], np.ptp(path)
    if abs(net) > 0.75 * reach:
        return forth if net > 0 else back
    travelled = np.abs(np.diff(path)).sum()
    return both if travelled > 1.6 * reach else None
