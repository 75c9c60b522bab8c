"""What `hb-run` left unfinished: the server finishes it as `hb-run --resume` would."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hummingbird_edge import TextToVideo
from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from hummingbird_edge.runtime.bundle.manifest import MANIFEST
from hummingbird_edge.runtime.cli.enhancing import FAST, kept_enhancement
from hummingbird_edge.runtime.files import state_directory
from hummingbird_edge.runtime.media.enhancement import Enhancement
from hummingbird_edge.runtime.media.latents import LatentsFile, write_latents
from hummingbird_edge.runtime.media.video import read_frames
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.result import Video, settings_of

pytestmark = pytest.mark.slow  # starts servers
Server = Any
STEPS, TAKEN = 5, 3
ENHANCEMENT = Enhancement(64, 48, None, 16, FAST)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle whose tiny decoder is the VAE's, given other latents: it shows something."""
    folder = tmp_path / "bundle"
    shutil.copytree(BUILTIN, folder)
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    entries["stages"]["tiny_decoder"] = entries["stages"]["vae_decoder"]
    (folder / MANIFEST).write_text(json.dumps(entries), encoding="utf-8")
    return folder


def begin(bundle: Path, name: str, enhancement: Enhancement | None) -> Video:
    """Leave a video as an interrupted `hb-run` does; return what it is to become."""
    pipeline = TextToVideo.from_bundle(bundle, device="cpu")
    size = {"frames": 4, "width": 32, "height": 32, "steps": STEPS}
    request = Request.for_model(pipeline.manifest, "a red star", 3, "tiny", **size)
    for progress in pipeline.generate(request):
        if progress.latents is not None and progress.index == TAKEN:
            settings = settings_of(request, pipeline.bundle, pipeline.placements)
            file = LatentsFile(settings, TAKEN, progress.latents, kept_enhancement(enhancement))
            folder = state_directory("unfinished")
            folder.mkdir(parents=True, exist_ok=True)
            write_latents(folder / f"{name}.latents", file)
    assert progress.video is not None
    return progress.video if enhancement is None else progress.video.with_enhancement(enhancement)


@pytest.mark.parametrize("enhancement", [None, ENHANCEMENT])
def test_decoder_and_enhancement_are_kept(
    start: Callable[..., Server], tmp_path: Path, bundle: Path, enhancement: Enhancement | None
) -> None:
    name = "plain" if enhancement is None else "enhanced"
    expected = begin(bundle, name, enhancement)
    server = start("--bundle", f"two={os.path.relpath(bundle)}")
    (found,) = server.client.get("/v1/unfinished").json()["data"]
    assert (found["id"], found["step"], found["steps"]) == (name, TAKEN, STEPS)
    video = server.client.post(f"/v1/unfinished/{name}/resume").json()
    assert (video["status"], video["decoder"], video["num_frames"]) == ("queued", "tiny", 4)
    done = server.wait(video["id"])
    assert "tiny_decoder" in done["timings"]
    assert len(done["backends"]) >= 2
    path = tmp_path / "video.webp"
    path.write_bytes(server.client.get(f"/v1/videos/{video['id']}/content?format=webp").content)
    # WebP shows two equal frames as a longer one.
    wanted = expected.save(tmp_path / "expected.webp")
    np.testing.assert_array_equal(read_frames(path)[0], read_frames(wanted)[0])
    options = [
        "--decoder tiny",
        *([] if enhancement is None else ["--fast", "--interpolate motion"]),
    ]
    assert all(option in done["command"] for option in options)
    assert done["size"] == ("32x32" if enhancement is None else "64x48")
    assert server.client.get("/v1/unfinished").json()["data"] == []
    remix = server.client.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "a cross"}).json()
    assert (remix["decoder"], remix["size"], remix["seed"]) == ("tiny", done["size"], 3)


@pytest.mark.parametrize("path", ["~/nowhere/bundle", "./nowhere", "/nowhere/a/bundle"])
def test_a_bundle_that_is_not_there_is_a_path(tmp_path: Path, hb: Any, path: str) -> None:
    done = hb("hb-serve", "--bundle", f"mine={path}", "--data", tmp_path)
    assert done.returncode == 1
    assert f"there is no bundle at {Path(path).expanduser()}" in done.stderr
    assert "hb-export build" in done.stderr


def test_of_another_model_it_is_refused(server: Server, bundle: Path) -> None:
    begin(bundle, "foreign", None)
    try:
        listed = server.client.get("/v1/unfinished").json()["data"]
        assert "foreign" not in [each["id"] for each in listed]
        answer = server.client.post("/v1/unfinished/foreign/resume")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "other_model")
    finally:
        (state_directory("unfinished") / "foreign.latents").unlink()
