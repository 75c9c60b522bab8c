"""Clips in tar files, as WebDataset reads them.

OUT/shards/00000.tar    for each clip NUMBER.mp4 (or another suffix), NUMBER.txt (a caption a line)
                        and NUMBER.json (where it comes from, what was measured)
OUT/shards/00000.json   the digest of what the shard was made of: it is not made twice
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.distill.data.frames import opened_video
from hummingbird_edge.distill.data.storage import Folder, open_file
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.media.mp4 import H264_OPTIONS

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["CLIPS_PER_SHARD", "Pack", "remove_from"]

CLIPS_PER_SHARD = 500
_SHARD = re.compile(r"shards/([0-9]{5,})\.(tar|json)")


@dataclass(frozen=True, slots=True)
class Pack:
    """The stage: a batch of kept clips becomes a shard."""

    folder: Folder

    def __call__(self, clips: Iterable[Candidate]) -> Iterator[Candidate]:
        """Write the shard of these clips, unless it is there; yield them. Raises OSError."""
        batch = list(clips)
        name = f"shards/{batch[0].number // CLIPS_PER_SHARD:05d}"
        made_of = [(clip.version, clip.enriched, _described(clip)) for clip in batch]
        digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        if not self._is_there(name, digest):
            # A kill may leave another tar: the digest of the old one would pass for its.
            if self.folder.exists(f"{name}.json"):
                self.folder.remove(f"{name}.json")
            with self.folder.writing(f"{name}.tar") as file:
                _write_tar(file, batch)
            note = {"clips": len(batch), "sha256_of_clips": digest}
            self.folder.write(f"{name}.json", json.dumps(note).encode())
        yield from batch

    def _is_there(self, name: str, digest: str) -> bool:
        if not self.folder.exists(f"{name}.json") or not self.folder.exists(f"{name}.tar"):
            return False
        try:
            return bool(json.loads(self.folder.read(f"{name}.json"))["sha256_of_clips"] == digest)
        except (ValueError, LookupError, TypeError):
            return False


def remove_from(folder: Folder, number: int) -> None:
    """Remove the shards of that number and above, which an earlier run left."""
    for name in folder.find():
        if (found := _SHARD.fullmatch(name)) and int(found[1]) >= number:
            folder.remove(name)


def _described(clip: Candidate) -> dict[str, object]:
    return {
        "name": clip.name,
        "start": clip.start,
        "stop": clip.stop,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
        "quality": clip.quality,
        "smoothness": clip.smoothness,
        "change": clip.change,
    }


def _write_tar(file: BinaryIO, clips: Sequence[Candidate]) -> None:
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for clip in clips:
            suffix = PurePath(clip.name).suffix.lower() if clip.is_whole else ".mp4"
            texts = "".join(f"{text}\n" for text in clip.enriched)
            with _opened(clip) as video:
                _add(tar, f"{clip.number:08d}{suffix}", video)
            _add(tar, f"{clip.number:08d}.txt", io.BytesIO(texts.encode()))
            described = json.dumps(_described(clip)).encode()
            _add(tar, f"{clip.number:08d}.json", io.BytesIO(described))


def _add(tar: tarfile.TarFile, name: str, file: BinaryIO) -> None:
    member = tarfile.TarInfo(name)  # of no time and no owner
    member.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    tar.addfile(member, file)


def _opened(clip: Candidate) -> BinaryIO:
    try:
        return open_file(clip.file) if clip.is_whole else io.BytesIO(_cut_out(clip))
    except (OSError, ValueError) as error:
        raise RequestError(f"{clip.file} cannot be read any more: {error}; curate again") from error


def _cut_out(clip: Candidate) -> bytes:
    """Return the clip's part of its video as an MP4 in H.264; raises ValueError."""
    import av
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

    file, even = io.BytesIO(), VideoReformatter()
    with opened_video(clip.file) as (header, pictures), av.open(file, "w", format="mp4") as output:
        rate = Fraction(header.fps or 8).limit_denominator(1001)
        stream = output.add_stream("libx264", rate=rate, options=dict(H264_OPTIONS))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = header.width // 2 * 2, header.height // 2 * 2
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(_part(pictures, clip.start, clip.stop)):
            frame = even.reformat(picture, stream.width, stream.height, "yuv420p")
            frame.pts, frame.time_base = index, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def _part(pictures: "Iterator[VideoFrame]", start: int, stop: int) -> "Iterator[VideoFrame]":
    for index, picture in enumerate(pictures):
        if index >= stop:
            return
        if index >= start:
            yield picture
