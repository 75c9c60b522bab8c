"""The API as its users meet it."""

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hummingbird_edge import TextToVideo
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.media.video import read_frames, read_settings

MODEL = Bundle.open(BUILTIN).manifest
FRAMES, FPS = MODEL.defaults.frames, MODEL.defaults.fps
STEP = MODEL.model.size_divisor
pytestmark = pytest.mark.slow  # starts servers
Server = Any


def test_a_video_is_what_python_makes(server: Server, tmp_path: Any) -> None:
    video = server.create(seed=5, num_frames=FRAMES, num_inference_steps=4)
    assert (video["object"], video["size"]) == ("video", "64x64")
    assert video["seconds"] == f"{FRAMES / FPS:g}"
    done = server.wait(video["id"])
    assert (done["progress"], done["seed"], done["error"]) == (100, 5, None)
    assert {"load", "text_encoder", "unet", "vae_decoder", "total"} == done["timings"].keys()
    assert done["promise"]["seconds"] > 0
    assert done["command"].startswith("hb-run ")
    answer = server.client.get(f"/v1/videos/{video['id']}/content?format=webp")
    path = tmp_path / "video.webp"
    path.write_bytes(answer.content)
    own = TextToVideo.from_bundle(device="cpu")("a red circle moving right", seed=5)
    np.testing.assert_array_equal(read_frames(path)[0], own.frames)
    assert read_settings(path)["prompt"] == "a red circle moving right"


@pytest.mark.parametrize(
    ("query", "kind", "magic"),
    [
        ("", "video/mp4", rb"ftyp"),
        ("?format=gif", "image/gif", b"GIF8"),
        ("?format=webp", "image/webp", b"WEBP"),
        ("?variant=thumbnail", "image/webp", b"WEBP"),
        ("?variant=spritesheet", "image/jpeg", b"\xff\xd8"),
    ],
)
def test_every_content_is_there(server: Server, query: str, kind: str, magic: bytes) -> None:
    key = _done(server)
    answer = server.client.get(f"/v1/videos/{key}/content{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert magic in answer.content[:12]


def test_parts_of_a_file(server: Server) -> None:
    path = f"/v1/videos/{_done(server)}/content"
    whole = server.client.get(path).content
    part = server.client.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    for wrong, status in (("bytes=9999999-", 416), ("bytes=9-3", 400), ("lines=1-2", 400)):
        answer = server.client.get(path, headers={"range": wrong})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, "invalid_range")
        if status == 416:
            assert answer.headers["content-range"] == f"bytes */{len(whole)}"


@pytest.mark.parametrize("path", ["/", "/v1/videos", "/v1/events", "/metrics", "/static/main.js"])
def test_heads(server: Server, path: str) -> None:
    answer = server.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_head_of_a_file(server: Server) -> None:
    path = f"/v1/videos/{_done(server)}/content"
    whole, head = server.client.get(path), server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    part = server.client.head(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.headers["content-length"]) == (206, "10")
    assert server.client.head("/v1/videos/video_0/content").status_code == 404


def test_events_tell_all_in_order(server: Server) -> None:
    with server.client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 1000"
        video = server.create(num_frames=4, num_inference_steps=30)
        seen, pictures = [], []
        for name, entries in _events(lines):
            if entries["id"] != video["id"]:
                continue
            if name == "preview":
                pictures.append(entries)
            else:
                seen.append((entries["status"], entries["stage"], entries["step"]))
            if name == "video" and entries["status"] == "completed":
                break
        server.client.delete(f"/v1/videos/{video['id']}")
        assert next(e for e in _events(lines) if e[0] == "deleted")[1] == {"id": video["id"]}
    assert [status for status, _, _ in seen if status == "completed"] == ["completed"]
    steps = [step for _, stage, step in seen if stage == "unet"]
    assert steps == sorted(steps)
    shown = [picture["step"] for picture in pictures]
    assert shown == sorted(set(shown))  # what a slow listener misses, a later one replaces
    strip = Image.open(io.BytesIO(base64.b64decode(pictures[-1]["image"].partition(",")[2])))
    assert strip.size == (4 * strip.height, 16)  # four square frames in a row, latents' size


def test_pages_of_the_list(server: Server) -> None:
    keys = [server.create()["id"] for _ in range(3)]
    first = server.client.get("/v1/videos?limit=2").json()
    assert [v["id"] for v in first["data"]] == [keys[2], keys[1]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (keys[2], keys[1], True)
    then = server.client.get(f"/v1/videos?limit=1&after={keys[1]}").json()
    assert [v["id"] for v in then["data"]] == [keys[0]]
    oldest = server.client.get("/v1/videos?order=asc&limit=100").json()["data"]
    assert [v["id"] for v in oldest][-3:] == keys
    for key in keys:
        server.wait(key)


def test_the_queue_moves_and_is_left(server: Server) -> None:
    running = server.create(num_frames=16, num_inference_steps=50)
    a, b, c = (server.create()["id"] for _ in range(3))
    server.wait(running["id"], "in_progress")
    assert [server.video(key)["queue_position"] for key in (a, b, c)] == [0, 1, 2]
    moved = server.client.post(f"/v1/videos/{c}/move", json={"position": 0}).json()
    assert moved["queue_position"] == 0
    assert [server.video(key)["queue_position"] for key in (a, b, c)] == [1, 2, 0]
    assert server.client.post(f"/v1/videos/{a}/cancel").json()["status"] == "cancelled"
    stopped = server.client.post(f"/v1/videos/{running['id']}/cancel").json()
    assert stopped["status"] == "cancelled"
    first, second = server.wait(c), server.wait(b)
    assert first["completed_at"] <= second["completed_at"]
    assert server.client.post(f"/v1/videos/{b}/cancel").status_code == 409
    assert server.client.post(f"/v1/videos/{b}/move", json={"position": 0}).status_code == 409


def test_a_cancelled_video_is_resumed(server: Server) -> None:
    video = server.create(num_frames=4, num_inference_steps=30, seed=3)
    while (server.video(video["id"])["step"] or 0) < 3:
        pass
    server.client.post(f"/v1/videos/{video['id']}/cancel")
    server.client.post(f"/v1/videos/{video['id']}/pin", json={"pinned": True})
    server.wait(server.create()["id"])  # the worker has let go of the first
    kept = {each["id"]: each for each in server.client.get("/v1/unfinished").json()["data"]}
    assert kept[video["id"]]["step"] >= 3
    answer = server.client.post(f"/v1/unfinished/{video['id']}/resume")
    assert answer.json()["status"] == "queued"
    assert server.wait(video["id"])["timings"]["text_encoder"] >= 0
    assert server.client.post(f"/v1/unfinished/{video['id']}/resume").status_code == 409


def test_deleting_stops_the_work(server: Server) -> None:
    video = server.create(num_frames=32, num_inference_steps=50)
    server.wait(video["id"], "in_progress")
    assert server.client.delete(f"/v1/videos/{video['id']}").json() == {
        "id": video["id"],
        "object": "video.deleted",
        "deleted": True,
    }
    server.wait(server.create()["id"])
    assert server.client.get(f"/v1/videos/{video['id']}").status_code == 404
    assert not (server.folder / "videos" / video["id"]).exists()


def test_a_remix_has_the_same_settings(server: Server) -> None:
    video = server.create(seed=11, fps=FPS + 4, size="32x32")
    answer = server.client.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "a blue cross"})
    other = answer.json()
    assert other["remixed_from_video_id"] == video["id"]
    same = ("seed", "fps", "size", "num_frames", "num_inference_steps", "guidance_scale", "model")
    assert [other[name] for name in same] == [video[name] for name in same]
    assert other["prompt"] == "a blue cross"


def test_sync_answers_with_the_file(server: Server) -> None:
    answer = server.client.post("/v1/videos/sync", data={"prompt": "a red circle", "seconds": "1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert b"ftyp" in answer.content[:12]


def test_models_promises_and_devices(server: Server) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    assert (model["id"], model["default"]) == (MODEL.name, True)
    assert model["num_frames"] == MODEL.defaults.frames
    assert model["devices"] == ["cpu"]
    assert tuple(model["prompts"]) == MODEL.prompts
    assert model["limits"]["width"] == {"min": STEP, "max": 256, "multiple": STEP}
    promise = server.client.post("/v1/promise", json={"prompt": "a", "num_frames": 4}).json()
    assert promise["seconds"] > 0
    stages = [stage["stage"] for stage in promise["stages"]]
    assert stages == ["text_encoder", "unet", "vae_decoder"]
    devices = server.client.get("/v1/devices").json()
    assert {"name": "cpu", "available": True}.items() <= devices["devices"][0].items()
    assert devices["measured"]


def test_each_device_has_a_worker(start: Callable[..., Server]) -> None:
    server = start("--device", "auto")
    assert server.client.get("/v1/models").json()["data"][0]["devices"] == ["cpu", "auto"]
    end = time.monotonic() + 60
    while len(server.workers()) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    done = server.wait(server.create(device="cpu")["id"])
    assert (done["device"], done["backends"]["unet"].partition(" ")[0]) == ("cpu", "cpu")
    server.wait(server.create()["id"])


def test_metrics_count(server: Server) -> None:
    server.client.get("/v1/videos/video_0")
    text = server.client.get("/metrics").text
    assert 'hummingbird_videos{status="completed"}' in text
    assert 'route="/v1/videos/{video_id}",status="404"' in text
    assert "video_0" not in text


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "prompt", "prompt is missing"),
        ({"prompt": "  "}, "prompt", "say what the video shows"),
        (
            {"prompt": "a", "model": "sora-2"},
            "model",
            f"choose {MODEL.name}",
        ),
        ({"prompt": "a", "width": 100}, "width", f"a multiple of {STEP} from {STEP} to 256"),
        ({"prompt": "a", "size": "512x512"}, "size", f"from {STEP} to 256"),
        ({"prompt": "a", "size": "big"}, "size", "size is 'big': write WIDTHxHEIGHT"),
        (
            {"prompt": "a", "seconds": "12"},
            "seconds",
            f"{12 * FPS} frames at {FPS} a second: give from {1 / FPS:g}",
        ),
        ({"prompt": "a", "seconds": 2}, "seconds", "seconds is 2: write a number as text"),
        ({"prompt": "a", "size": "32x32", "width": 64}, None, "width is 64, where 32 would fit"),
        ({"prompt": "a", "seconds": "1", "num_frames": 1}, None, f"where {FPS} would fit: leave"),
        ({"prompt": "a", "num_frames": 99}, "num_frames", f"is 99: give from 1 to {4 * FRAMES}"),
        ({"prompt": "a", "num_frames": "8"}, "num_frames", "is '8': it should be a valid integer"),
        ({"prompt": "a", "guidance_scale": float("inf")}, "guidance_scale", "finite"),
        ({"prompt": "a", "loras": []}, "loras", "there is no parameter loras"),
        ({"prompt": "a", "input_reference": "x"}, "input_reference", "text alone"),
        ({"prompt": "a", "device": "dml"}, "device", "choose auto, cpu"),
        ({"prompt": "a", "decoder": "tiny"}, None, "has no tiny decoder"),
        ({"prompt": "a", "decoder": "huge"}, "decoder", "'full' or 'tiny'"),
        ({"prompt": "a" * 2001}, "prompt", "2000"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    server: Server, body: dict[str, Any], param: str | None, words: str
) -> None:
    answer = server.client.post(
        "/v1/videos", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_what_says_the_same_twice_is_taken(server: Server) -> None:
    body = {"prompt": "a", "size": "32x32", "width": 32, "seconds": "1", "num_frames": FPS}
    assert server.client.post("/v1/promise", json=body).status_code == 200


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/video_0/pin"])
@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"prompt": "a"}'])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
def test_a_body_of_another_kind_is_one_sentence(
    server: Server, path: str, body: bytes, kind: str | None
) -> None:
    if path == "/v1/videos" and kind is None and body.endswith(b"}"):
        return  # what it is can be seen
    headers = {} if kind is None else {"content-type": kind}
    answer = server.client.post(path, content=body, headers=headers)
    error = answer.json()["error"]
    assert answer.status_code == 400
    is_form = path == "/v1/videos" and kind == "application/x-www-form-urlencoded"
    if is_form and not body.startswith(b"{"):
        assert error["param"] in ("prompt", "[1]")
    else:
        assert "application/json" in error["message"]


def test_the_document_is_openapi_3_1(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {"/v1/videos", "/v1/videos/{video_id}/content"} <= document["paths"].keys()
    assert "HTTPValidationError" not in json.dumps(document)


def _done(server: Server) -> str:
    """Return a finished video."""
    for video in server.client.get("/v1/videos").json()["data"]:
        if video["status"] == "completed":
            return str(video["id"])
    return str(server.wait(server.create()["id"])["id"])


def _events(lines: Any) -> Any:
    """Yield name and data of each event."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
