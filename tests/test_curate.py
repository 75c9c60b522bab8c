"""From a folder of videos to clips: what is kept, what is dropped, and why."""

import json
import struct
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hummingbird_edge.distill.data.curate import Report, Thresholds, curate_folder
from hummingbird_edge.distill.data.enrich import KEY, ChatEnricher, TemplateEnricher
from hummingbird_edge.distill.data.filters import measure_video
from hummingbird_edge.distill.data.frames import MAX_PIXELS, read_frames
from hummingbird_edge.distill.data.videos import find_videos
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import FULL, Scene
from hummingbird_edge.runtime.errors import DeviceError, OutputError, RequestError
from hummingbird_edge.runtime.media.video import write_video

pytestmark = pytest.mark.slow  # filters and captions videos

Frames = NDArray[np.uint8]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def clip_of(motion: str, colour: str = "red") -> Frames:
    scene = Scene.of(colour, "star", "large", motion, "pink")
    frames = render([scene], FULL, torch.Generator().manual_seed(0))[0]
    return (frames.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8).repeat(3, 1).repeat(3, 2)


def texture(side: int = 400) -> Frames:
    """Return a busy picture (H, W, 3): smooth noise at several scales."""
    rng = np.random.default_rng(0)
    picture = np.zeros((side, side))
    for cells in (10, 20, 40):
        coarse = rng.random((cells, cells))
        picture += np.kron(coarse, np.ones((side // cells, side // cells)))
    picture = picture / picture.max()
    return (np.stack([picture, picture**2, 1 - picture], -1) * 255).astype(np.uint8)


def zoomed(holds_subject: bool) -> Frames:
    """Zoom into a texture; a dolly zoom holds a disc in the middle at its size."""
    from PIL import Image

    picture, frames = texture(), []
    rows, columns = np.mgrid[:192, :192]
    middle = np.hypot(rows - 96, columns - 96) < 40
    for t in range(16):
        reach = int(200 - 6 * t)
        part = Image.fromarray(picture[200 - reach : 200 + reach, 200 - reach : 200 + reach])
        frame = np.array(part.resize((192, 192)))
        if holds_subject:
            still = np.array(Image.fromarray(picture).resize((192, 192)))
            frame[middle] = still[middle]
        frames.append(frame)
    return np.stack(frames)


def write(path: Path, frames: Frames, caption: str | None = None) -> None:
    write_video(path, frames, 8, {})
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def test_smooth_clips_pass_and_dolly_zooms_and_shakes_do_not() -> None:
    limits = Thresholds()
    for motion in ("right", "bouncing", "growing", "spinning"):
        assert limits.reason(measure_video(clip_of(motion))) is None, motion
    assert limits.reason(measure_video(zoomed(holds_subject=True))) == "dolly zoom"
    assert limits.reason(measure_video(zoomed(holds_subject=False))) is None
    rng = np.random.default_rng(0)
    shifts = rng.integers(-30, 30, (16, 2))
    shaken = np.stack([np.roll(texture()[:192, :192], tuple(s), (0, 1)) for s in shifts])
    assert limits.reason(measure_video(shaken)) == "motion not smooth"
    assert limits.reason(measure_video(np.full((16, 192, 192, 3), 90, np.uint8))) == "low quality"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    write(folder / "a.mp4", clip_of("right"), "A red star moving right.")
    write(folder / "b.gif", clip_of("up", "blue"), "a blue star rises")
    write(folder / "copy.mp4", clip_of("right"), "the same again")
    write(folder / "silent.mp4", clip_of("left"))
    write(folder / "flat.mp4", np.full((16, 96, 96, 3), 90, np.uint8), "nothing")
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "broken.txt").write_text("a broken file", encoding="utf-8")
    (folder / "notes.md").write_text("no video", encoding="utf-8")
    return folder


def test_a_folder_is_filtered_and_enriched(folder: Path, tmp_path: Path) -> None:
    report = curate_folder(folder, tmp_path / "out", TemplateEnricher(), Thresholds())
    lines = (tmp_path / "out" / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    kept = {Path(entry["file"]).name: entry for entry in map(json.loads, lines)}
    assert set(kept) == {"a.mp4", "b.gif"}
    assert kept["a.mp4"]["captions"][:2] == [
        "A red star moving right.",
        "a video of a red star moving right",
    ]
    dropped = json.loads((tmp_path / "out" / "dropped.json").read_text(encoding="utf-8"))
    assert {entry["file"]: entry["reason"] for entry in dropped} == {
        "broken.mp4": "unreadable",
        "copy.mp4": "copy of another",
        "flat.mp4": "low quality",
        "silent.mp4": "no caption",
    }
    assert isinstance(report, Report)
    assert "| kept | 2 |" in report.table()
    assert "| dropped: no caption | 1 |" in report.table()


@dataclass(frozen=True)
class Interrupted:
    """Enrich as templates do, but stop at the caption of `at`, as Ctrl-C does."""

    at: str

    def __call__(self, caption: str) -> tuple[str, ...]:
        if self.at in caption:
            raise KeyboardInterrupt
        return TemplateEnricher()(caption)

    def __str__(self) -> str:
        return str(TemplateEnricher())


def test_a_run_that_was_stopped_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = curate_folder(folder, tmp_path / "whole", TemplateEnricher(), Thresholds())
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        curate_folder(folder, out, Interrupted("blue"), Thresholds())
    assert not (out / "kept.jsonl").exists()
    examined: list[str] = []
    real = read_frames

    def counted(path: Path, *rest: int) -> Frames:
        examined.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr("hummingbird_edge.distill.data.curate.read_frames", counted)
    seen: list[tuple[int, int]] = []
    report = curate_folder(
        folder, out, TemplateEnricher(), Thresholds(), lambda *done: seen.append(done)
    )
    assert report == whole
    assert "a.mp4" not in examined
    assert "b.gif" in examined
    assert seen == [(done, 6) for done in range(1, 7)]
    for name in ("kept.jsonl", "dropped.json"):
        assert (out / name).read_text(encoding="utf-8") == (tmp_path / "whole" / name).read_text(
            encoding="utf-8"
        )
    assert {path.name for path in out.iterdir()} == {"kept.jsonl", "dropped.json"}


def test_other_thresholds_start_anew(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        curate_folder(folder, tmp_path / "out", Interrupted("blue"), Thresholds())
    strict = Thresholds(smoothness=2.0)
    with pytest.raises(RequestError, match="3 motion not smooth"):
        curate_folder(folder, tmp_path / "out", TemplateEnricher(), strict)
    assert not (tmp_path / "out").exists()


def test_captions_come_from_metadata_too(folder: Path) -> None:
    entry = {"file_name": "silent.mp4", "text": "a red star moving left"}
    (folder / "metadata.jsonl").write_text(json.dumps(entry) + "\n")
    said = {video.path.name: video.captions for video in find_videos(folder)}
    assert said["silent.mp4"] == ("a red star moving left",)
    (folder / "metadata.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"metadata.jsonl line 1 is not"):
        find_videos(folder)


def test_frames_are_spread_and_cut_to_the_middle(folder: Path) -> None:
    frames = read_frames(folder / "b.gif", 8, 64, 32)
    assert frames.shape == (8, 32, 64, 3)
    with pytest.raises(ValueError, match="16 frames, 17 are needed"):
        read_frames(folder / "b.gif", 17, 64, 64)


def numbered(path: Path, count: int, **options: str) -> None:
    """Write frames (32, 48) that grow brighter, in groups of 12 with B-frames."""
    import av
    from av.video.stream import VideoStream

    codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
    settings = {"g": "12"} | ({"bf": "2"} if codec == "libx264" else {}) | options
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=settings)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for index in range(count):
            picture = np.full((32, 48, 3), 40 + 2 * (index % 90), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def all_frames(path: Path) -> Frames:
    import av

    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi"])
def test_the_frames_that_are_needed_are_found_in_every_container(tmp_path: Path, name: str) -> None:
    numbered(tmp_path / name, 89)
    every = all_frames(tmp_path / name)
    assert len(every) == 89
    for count in (1, 3, 7, 89):
        found = read_frames(tmp_path / name, count, 48, 32)
        assert np.array_equal(found, every[np.linspace(0, 88, count).round().astype(int)]), count


def test_a_variable_frame_rate_changes_no_frame(tmp_path: Path) -> None:
    import av

    numbered(tmp_path / "even.mp4", 60)
    path = tmp_path / "uneven.mp4"
    with av.open(str(tmp_path / "even.mp4")) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                packet.pts += 4 * max(0, packet.pts - 20 * 512)
                packet.dts += 4 * max(0, packet.dts - 20 * 512)
                packet.stream = stream
                container.mux(packet)
    found, every = read_frames(path, 7, 48, 32), all_frames(tmp_path / "even.mp4")
    assert np.array_equal(found, every[np.linspace(0, 59, 7).round().astype(int)])


def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    numbered(tmp_path / "long.mp4", 2000)
    tracemalloc.start()
    try:
        frames = read_frames(tmp_path / "long.mp4", 4, 192, 192)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frames.shape == (4, 192, 192, 3)
    assert peak < 8 * frames.nbytes


def gif_header(width: int, height: int) -> bytes:
    """Return a GIF of one pixel whose header claims a screen of any size."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + image + b";"


def test_files_that_are_traps_are_dropped_as_unreadable(folder: Path, tmp_path: Path) -> None:
    traps = {
        "huge.gif": gif_header(60_000, 60_000),
        "large.gif": gif_header(MAX_PIXELS // 8192, 8193),
        "list.mp4": b"ffconcat version 1.0\nfile 'a.mp4'\n",
        "script.gif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    }
    for name, content in traps.items():
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text("a trap")
    curate_folder(folder, tmp_path / "out", TemplateEnricher(), Thresholds())
    dropped = json.loads((tmp_path / "out" / "dropped.json").read_text())
    reasons = {entry["file"]: (entry["reason"], entry["detail"]) for entry in dropped}
    assert {reasons[name][0] for name in traps} == {"unreadable"}
    assert "8192x8193 pixels" in reasons["large.gif"][1]


def test_bad_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RequestError, match="holds no videos"):
        find_videos(empty)
    with pytest.raises(RequestError, match="there is no folder"):
        find_videos(tmp_path / "nowhere")
    write(empty / "silent.mp4", clip_of("left"))
    with pytest.raises(
        RequestError, match=r"is fit to train on \(1 no caption; silent.mp4: no NAME.txt"
    ):
        curate_folder(empty, tmp_path / "out", TemplateEnricher(), Thresholds())
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="choose another"):
        curate_folder(folder, tmp_path / "file", TemplateEnricher(), Thresholds())


def test_the_command_says_it_in_one_sentence(
    hb_forked: Command, folder: Path, tmp_path: Path
) -> None:
    done = hb_forked("hb-distill", "curate", folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "| kept | 2 |" in done.stdout
    for path in (tmp_path / "nowhere", tmp_path / "out"):
        done = hb_forked("hb-distill", "curate", path, tmp_path / "other")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("hb-distill: ")
        assert not (tmp_path / "other").exists()


class Endpoint(BaseHTTPRequestHandler):
    """A real HTTP peer that answers as OpenAI's chat endpoint does."""

    asked: list[dict[str, object]] = []  # noqa: RUF012 - one list for all requests is meant

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({**body, "key": self.headers["Authorization"], "path": self.path})
        caption = body["messages"][1]["content"]
        message = {"content": f" {caption}, seen\nfrom afar "}
        answer = {"choices": [{"message": message}]} if body["model"] == "good" else {"error": "x"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.asked.clear()
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_language_model_can_rewrite(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    assert ChatEnricher(endpoint, "good")("a red star") == ("a red star, seen from afar",)
    (asked,) = Endpoint.asked
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", "Bearer secret")
    with pytest.raises(DeviceError, match="gave no caption"):
        ChatEnricher(endpoint, "bad")("a red star")


def test_endpoints_that_are_none_are_refused() -> None:
    with pytest.raises(RequestError, match="is no endpoint"):
        ChatEnricher("file:///etc/passwd")
    with pytest.raises(DeviceError, match="gave no caption"):
        ChatEnricher("http://127.0.0.1:9/v1", timeout_s=2)("a red star")
