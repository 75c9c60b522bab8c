"""Bundles and checkpoints on the Hugging Face hub: from its cache, and from a server like it."""

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import sha256_of
from hummingbird_edge.runtime.pipeline import TextToVideo

NANO = Path(__file__).parent / "data" / "nano_07b_merged_all.pt"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Serve = Callable[[Path], list[str]]
pytestmark = pytest.mark.slow  # makes videos, in processes of their own
posix = pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights on Windows")


def as_hub_cache(bundle: Path, cache: Path, repository: str) -> Path:
    """Lay a bundle out as the Hugging Face cache does; returns the snapshot's folder."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / "0123abc"
    (home / "refs").mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs" / "main").write_text("0123abc", encoding="utf-8")
    for path in (path for path in bundle.rglob("*") if path.is_file()):
        blob = home / "blobs" / sha256_of(path)
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@posix
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_bundle_in_the_hugging_face_cache_runs_offline(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    snapshot = as_hub_cache(nano_bundle, tmp_path / "hub", "owner/nano")
    for source in ("owner/nano", snapshot):
        pipeline = TextToVideo.from_bundle(source, device=device, precision="fp32")
        assert pipeline.bundle.digest == Bundle.open(nano_bundle).digest
        assert pipeline("a cat", frames=2, width=32, height=32, steps=1).frames.any()


@posix
def test_a_link_out_of_the_cache_is_refused(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = as_hub_cache(nano_bundle, tmp_path / "hub", "owner/nano")
    link = snapshot / "unet" / "model.onnx"
    link.unlink()
    link.symlink_to(nano_bundle / "unet" / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        Bundle.open(snapshot)


def test_a_repository_that_is_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("hummingbird_edge.runtime.bundle.hub.find_spec", lambda name: None)
    with pytest.raises(BundleError, match="no folder owner/nano and the Hugging Face cache"):
        TextToVideo.from_bundle("owner/nano")


class Hub(BaseHTTPRequestHandler):
    """Serve `owner/name`, a folder, by the two calls that downloads make."""

    def __init__(self, folder: Path, asked: list[str], *arguments: object) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        """Send status and headers; returns the body."""
        path = self.path.partition("?")[0]
        self.asked.append(path)
        about, files = "/api/models/owner/name/revision/", f"/owner/name/resolve/{COMMIT}/"
        file = self.folder / path.removeprefix(files)
        headers, body = {"X-Repo-Commit": COMMIT}, b""
        if path.startswith(about):
            names = [p for p in self.folder.rglob("*") if p.is_file()]
            listed = [{"rfilename": p.relative_to(self.folder).as_posix()} for p in names]
            entries = {"id": "owner/name", "sha": COMMIT, "siblings": listed}
            body = json.dumps(entries).encode()
        elif path.startswith(files) and file.is_file():
            body = file.read_bytes()
            headers["ETag"] = f'"{sha256_of(file)}"'
        self.send_response(200 if body else 404)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        return body

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return a function that serves a folder, and returns the paths that will be asked for."""
    servers = []

    def serve(folder: Path) -> list[str]:
        asked: list[str] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, folder, asked))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        return asked

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_bundle_is_downloaded_once(hb: Command, served: Serve, tmp_path: Path) -> None:
    asked = served(BUILTIN)
    command = ("a red circle", "--bundle", "owner/name", "--steps", "1", "--device", "cpu")
    done = hb("hb-run", *command, "-o", "a.webp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = {
        f"/owner/name/resolve/{COMMIT}/{name}" for name in Bundle.open(BUILTIN).manifest.files
    }
    assert listed <= set(asked)
    asked.clear()
    done = hb("hb-run", *command, "-o", "b.webp", cwd=tmp_path)
    assert (done.returncode, asked) == (0, [])
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()


def test_a_bundle_that_lost_a_file_is_completed(hb: Command, served: Serve, tmp_path: Path) -> None:
    served(BUILTIN)
    command = ("a red circle", "--bundle", "owner/name", "--steps", "1", "--device", "cpu")
    assert hb("hb-run", *command, "-o", "a.webp", cwd=tmp_path).returncode == 0
    (graph,) = (tmp_path / "hub").glob("models--owner--name/snapshots/*/unet/fused.onnx")
    graph.resolve().unlink()
    graph.unlink(missing_ok=True)
    done = hb("hb-run", *command, "-o", "b.webp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("hb-run", ("--bundle", "owner/other", "a cat")),
        ("hb-export", ("build", "owner/other", "o")),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    hb: Command, served: Serve, tmp_path: Path, command: str, arguments: tuple[str, ...]
) -> None:
    served(tmp_path)
    done = hb(command, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{command}: owner/other cannot be fetched")
    assert "there is no such file or folder here" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_checkpoint_is_read_offline_after_its_download(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repository").mkdir()
    shutil.copy(NANO, tmp_path / "repository" / "07B_merged_all.pt")
    asked = served(tmp_path / "repository")
    program = (
        "from hummingbird_edge.export.checkpoint import read_checkpoint\n"
        "print(read_checkpoint('owner/name').source)"
    )
    read = [sys.executable, "-c", program]
    for offline in ("0", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        done = subprocess.run(read, capture_output=True, text=True)
        assert done.stdout.strip() == f"owner/name@{COMMIT}/07B_merged_all.pt", done.stderr
        assert bool(asked) == (offline == "0")
        asked.clear()
