"""Read a video once: find its scene cuts, and keep evenly spaced small frames of each scene.

Cuts are those of PySceneDetect's adaptive detector: a change of hue, saturation and brightness that
stands out from the changes around it, so that fast motion is none.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.distill.curation.candidate import SIDE, Candidate
from hummingbird_edge.distill.curation.videos import read_captions
from hummingbird_edge.distill.data.frames import Header, opened_video
from hummingbird_edge.distill.data.storage import open_file

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["MIN_FRAMES", "Scene", "find_scenes", "read_scenes"]

Frame = NDArray[np.uint8]

MIN_FRAMES = 16
"""Of a scene that can be measured; as many of each are kept or more, less than twice as many."""
MAX_ASPECT = 16
"""Of a frame's sides; small frames are as large as that at most."""
CHANGE = 8.0
"""Mean change of hue, saturation and brightness (0 to 255) at a cut."""
CONTRAST = 3.0
"""Times as much as in the two frames before it and after it."""


@dataclass(slots=True)
class Scene:
    """Frames [start, stop) of a video, of which evenly spaced ones are kept."""

    start: int
    stop: int = 0
    frames: list[Frame] = field(default_factory=list)
    """(SIDE, SIDE, 3) each."""
    stride: int = 1

    def __post_init__(self) -> None:
        self.stop = self.start

    def add(self, frame: Frame) -> None:
        """Take the next frame; when there are too many, let every other one go."""
        if (self.stop - self.start) % self.stride == 0:
            self.frames.append(frame)
            if len(self.frames) == 2 * MIN_FRAMES:
                self.frames, self.stride = self.frames[::2], 2 * self.stride
        self.stop += 1


def read_scenes(video: Candidate) -> Iterator[Candidate]:
    """Yield a clip for each scene of a video, and one with a fault where it cannot be read."""
    clips = _scenes_of(video)
    last = next(clips)
    for clip in clips:
        yield last
        last = clip
    yield last.but(is_last=True)


def _scenes_of(video: Candidate) -> Iterator[Candidate]:
    number, end, part = 0, 0, video.but(is_last=False)
    try:
        if video.caption_file:
            with open_file(video.caption_file) as file:
                part = part.but(captions=read_captions(file))
        with opened_video(video.file) as (header, pictures):
            size = {"width": header.width, "height": header.height, "fps": header.fps}
            for number, scene in enumerate(find_scenes(header, pictures), 1):
                end = scene.stop
                frames = b"".join(frame.tobytes() for frame in scene.frames)
                found = part.but(scene=number - 1, start=scene.start, stop=end, **size)
                if (count := end - scene.start) >= MIN_FRAMES:
                    yield found.but(frames=frames)
                else:
                    detail = f"{count} frames, {MIN_FRAMES} are needed"
                    yield found.but(fault="too short", detail=detail)
    except Exception as error:  # a stranger's file may bring libraries to raise anything
        part = part.but(scene=number, start=end, stop=end)
        yield part.but(fault="unreadable", detail=str(error) or type(error).__name__)


def find_scenes(header: Header, pictures: "Iterator[VideoFrame]") -> Iterator[Scene]:
    """Yield the scenes of a video as they end."""
    from scenedetect import AdaptiveDetector, FrameTimecode

    detector = AdaptiveDetector(CONTRAST, min_scene_len=0, min_content_val=CHANGE)
    fps, scene = header.fps or 1.0, Scene(0)
    undecided = deque[Frame]()  # the detector looks at the frames after a cut too
    for number, frame in enumerate(_small(header, pictures)):
        undecided.append(frame)
        cuts = detector.process_frame(FrameTimecode(number, fps), frame[::2, ::2, ::-1])
        if len(undecided) > detector.event_buffer_length:
            if any(cut.frame_num == scene.stop for cut in cuts):
                yield scene
                scene = Scene(scene.stop)
            scene.add(undecided.popleft())
    for frame in undecided:
        scene.add(frame)
    yield scene


def _small(header: Header, pictures: "Iterator[VideoFrame]") -> Iterator[Frame]:
    """Yield frames (SIDE, SIDE, 3), scaled to fill and cut to the middle."""
    from av.video.reformatter import VideoReformatter

    short, long = sorted((header.width, header.height))
    if long > MAX_ASPECT * short:
        raise ValueError(
            f"its frames have {header.width}x{header.height} pixels, no picture's form"
        )
    width, height = (round(SIDE / short * each) for each in (header.width, header.height))
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    reformatter = VideoReformatter()
    for picture in pictures:
        small = reformatter.reformat(picture, width, height, "rgb24", interpolation="AREA")
        yield np.array(small.to_ndarray()[top : top + SIDE, left : left + SIDE], np.uint8)
