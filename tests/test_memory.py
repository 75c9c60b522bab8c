"""The cap on memory, what is planned for it, and what happens when memory runs out."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.bundle.manifest import Stage, StageKind, Variant
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.engines.compile_cache import CompileCache
from hummingbird_edge.runtime.engines.loading import open_stage
from hummingbird_edge.runtime.engines.tiles import Tiles
from hummingbird_edge.runtime.errors import DeviceError, OutOfMemoryError, RequestError
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.placement import runner as runner_module
from hummingbird_edge.runtime.placement.limits import container_bytes
from hummingbird_edge.runtime.placement.memory import (
    parse_memory,
    peaks,
    readable,
    stage_bytes,
)
from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.placement.plan import Placement, fitting, min_bytes
from hummingbird_edge.runtime.placement.planner import Planner
from hummingbird_edge.runtime.placement.runner import Runner
from tests.conftest import SHAPES

Command = Callable[..., "subprocess.CompletedProcess[str]"]
CAP = 600_000_000
CPU = Backend.parse("cpu")
MANIFEST = Bundle.open(BUILTIN).manifest
SHAPE = (MANIFEST.defaults.frames, MANIFEST.defaults.height, MANIFEST.defaults.width, 3)
SIZES = {"frames": 8, "height": 8, "width": 8}
DECODER = Placement("vae_decoder", StageKind.DECODER, CPU, SIZES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4GB", 4 * 10**9),
        ("3.5gib", 3.5 * 2**30),
        ("900M", 9 * 10**8),
        (" 2 g ", 2 * 10**9),
        (".5 GB", 5 * 10**8),
    ],
)
def test_sizes_are_read(text: str, found: float) -> None:
    assert parse_memory(text) == found


@pytest.mark.parametrize(
    "text", ["", "much", "-1GB", "0", "0GB", "520", "4TB", "1e3", "4 4GB", "nan", "i", "4iB"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="write a size such as 4GB"):
        parse_memory(text)


def test_a_printed_figure_suffices() -> None:
    for count in (1, 99_999_999, 100_000_000, 100_000_001, 3_912_345_678):
        assert parse_memory(readable(count)) >= count


def test_a_need_grows_with_weights_and_sizes() -> None:
    placement = Placement("unet", StageKind.UNET, CPU, SIZES)
    unet = Stage(StageKind.UNET, (Variant("unet/model.onnx"),), parameters=10**8)
    small = stage_bytes(placement, {"unet": unet})
    assert stage_bytes(replace(placement, sizes={**SIZES, "frames": 800}), {"unet": unet}) > small
    large = Stage(StageKind.UNET, unet.variants, parameters=10**9)
    assert stage_bytes(placement, {"unet": large}) > 5 * small
    bf16 = Backend.parse("openvino", "bf16")
    assert stage_bytes(replace(placement, backend=bf16), {"unet": unet}) < small


def test_a_model_that_is_not_read_back_is_counted_as_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"unet": Stage(StageKind.UNET, (Variant("unet/model.onnx"),), parameters=10**8)}
    weights = 4 * 10**8
    for name, more in (("openvino", 1.4 * weights), ("cpu", 0)):
        placement = Placement("unet", StageKind.UNET, Backend.parse(name), SIZES)
        known = [stage_bytes(placement, stages, room) for room in (weights - 1, weights)]
        # While it computes: at this size loading it takes less.
        assert known[0] - known[1] <= more
        assert (known[0] > known[1]) == (more > 0)
    assert CompileCache(tmp_path).room() > 0
    assert CompileCache(tmp_path / "gone").room() == 0
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / "file"))
    assert Planner(Bundle.open(BUILTIN), "cpu").room == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
def test_a_video_without_a_cache_takes_what_was_predicted(
    hb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / "file"))
    video = ("a red circle", "--steps", 1, "--device", "openvino", "-o", tmp_path / "a.webp")
    memories = []
    for _ in range(3):  # threads share the allocator's pools in another way each time
        done = hb("hb-run", *video, "--json")
        assert done.returncode == 0, done.stderr
        memories.append(json.loads(done.stdout)["memory"])
    predicted = memories[0]["predicted_peak_bytes"]
    assert 1 <= predicted / max(memory["peak_bytes"] for memory in memories) <= 1.3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
@pytest.mark.parametrize("device", ["cpu", "openvino"])
@pytest.mark.parametrize(
    ("model", "frames", "size", "most"),
    # What engines take was measured on shapes.
    [(SHAPES, 8, "64x64", 1.3), (SHAPES, 16, "128x128", 1.3), (BUILTIN, 16, "64x64", 1.4)],
)
def test_a_first_video_takes_what_was_predicted(
    hb: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    model: Path,
    frames: int,
    size: str,
    most: float,
) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    video = ("a", "--bundle", model, "--frames", frames, "--size", size, "--steps", 1)
    predicted, peaks = 0, list[int]()
    for run in range(3):  # threads share the allocator's pools in another way each time
        monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path / f"cache-{run}"))
        done = hb("hb-run", *video, "--device", device, "-o", tmp_path / "a.webp", "--json")
        assert done.returncode == 0, done.stderr
        memory = json.loads(done.stdout)["memory"]
        predicted = max(predicted, memory["predicted_peak_bytes"])
        peaks.append(memory["peak_bytes"])
    assert 1 <= predicted / max(peaks) <= most


def test_what_stays_in_memory_is_counted() -> None:
    manifest = Bundle.open(BUILTIN).manifest
    unet = Placement("unet", StageKind.UNET, CPU, SIZES)
    placements = {"unet": unet, "vae_decoder": DECODER}
    freed = peaks(placements, manifest, stays=False)
    stay = peaks(placements, manifest, stays=True)
    assert freed["unet"] == stay["unet"] < stage_bytes(unet, manifest.stages)
    weights = 4 * manifest.stages["unet"].parameters
    assert stay["vae_decoder"] - freed["vae_decoder"] > weights


def test_less_at_once_until_it_fits() -> None:
    def need(placement: Placement) -> int:
        return 10 * placement.sizes["frames"]

    assert [w.sizes["frames"] for w in fitting([DECODER], need, 45)] == [4]
    assert fitting([DECODER], need, 80) == [DECODER]
    assert fitting([DECODER], need, 9) == []
    assert min_bytes([DECODER], need) == 10
    assert replace(DECODER, kind=StageKind.UNET).smaller() is None


def test_a_frame_is_cut_when_there_is_no_other_way() -> None:
    tiles = Tiles(40, 64, 40, 64)
    tried: Placement | None = replace(DECODER, sizes={**SIZES, "frames": 2}, tiles=tiles)
    seen = []
    while tried is not None:
        assert tried.tiles is not None
        seen.append((tried.sizes["frames"], len(tried.tiles)))
        tried = tried.smaller()
    assert seen == [(2, 1), (1, 1), (1, 2), (1, 4), (1, 8)]


CAPPED = """
import sys
import numpy as np
from hummingbird_edge.runtime.pipeline import TextToVideo
frames, side, cap = map(int, sys.argv[1:4])
bundle, out = sys.argv[4:]
pipeline = TextToVideo.from_bundle(bundle, device="cpu", max_memory=cap or None)
video = pipeline("a red circle moving right", frames=frames, width=side, height=side, steps=1)
np.save(out, video.frames)
print(len(pipeline.placements["vae_decoder"].tiles))
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def _capped(frames: int, side: int, cap: int, out: Path) -> tuple[int, int, NDArray[np.float64]]:
    """Make a video in a process of its own; returns tiles, peak bytes and frames."""
    if sys.platform != "linux":
        pytest.skip("peak memory is read from Linux's /proc")
    command = [sys.executable, "-c", CAPPED, *map(str, (frames, side, cap, SHAPES, out))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tiles, kilobytes = map(int, done.stdout.split())
    return tiles, kilobytes << 10, np.load(out).astype(np.float64)


def test_more_than_the_machine_has_is_refused_before_work() -> None:
    pipeline = TextToVideo.from_bundle(device="cpu")
    with pytest.raises(RequestError, match=r"unet.* cannot run within the .*GB that this machine"):
        pipeline("a red circle", frames=10_000, width=4096, height=4096)
    assert pipeline.placements == {}


@pytest.mark.slow
def test_a_capped_video_is_the_same_and_stays_below(tmp_path: Path) -> None:
    _, _, free = _capped(16, 256, 0, tmp_path / "video.npy")
    _, peak, capped = _capped(16, 256, CAP, tmp_path / "video.npy")
    np.testing.assert_array_equal(capped, free)
    assert peak < CAP


@pytest.mark.slow
def test_a_frame_decoded_by_tiles_is_45_db_from_the_whole(tmp_path: Path) -> None:
    cap = 520_000_000
    one, peak, free = _capped(1, 768, 0, tmp_path / "video.npy")
    four, capped_peak, capped = _capped(1, 768, cap, tmp_path / "video.npy")
    assert (one, four) == (1, 4)
    assert capped_peak < min(cap, peak)
    assert 0 < np.square(free - capped).mean() < 255**2 / 10**4.5


def test_a_cap_that_is_too_small_names_one_that_would_do() -> None:
    with pytest.raises(RequestError, match="cannot run within 50MB") as caught:
        TextToVideo.from_bundle(device="cpu", max_memory=50_000_000)("a red circle")
    figure = str(caught.value).split("--max-memory ")[1].split(" ")[0]
    capped = TextToVideo.from_bundle(device="cpu", max_memory=parse_memory(figure))
    assert capped("a red circle", steps=1).frames.shape == SHAPE


class _Fails:
    """A real session that fails some of its runs, as a device would."""

    def __init__(self, session: Any, errors: list[DeviceError]) -> None:
        self._session, self._errors = session, errors
        self.backend, self.share = session.backend, session.share

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        if self._errors:
            raise self._errors.pop()
        found: NDArray[np.float32] = self._session.run(inputs)
        return found


def _failing(monkeypatch: pytest.MonkeyPatch, errors: dict[str, list[DeviceError]]) -> None:
    def open_failing(bundle: Bundle, stage: str, *args: Any, **kwargs: Any) -> _Fails:
        return _Fails(open_stage(bundle, stage, *args, **kwargs), errors.get(stage, []))

    monkeypatch.setattr(runner_module, "open_stage", open_failing)


def test_a_decoder_out_of_memory_takes_fewer_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TextToVideo.from_bundle(device="cpu")("a red circle", steps=1)
    _failing(monkeypatch, {"vae_decoder": [OutOfMemoryError("full"), OutOfMemoryError("full")]})
    notes: list[str] = []
    pipeline = TextToVideo.from_bundle(device="cpu", notify=notes.append)
    video = pipeline("a red circle", steps=1)
    assert np.abs(video.frames.astype(int) - whole.frames).max() <= 1
    assert [note.rpartition(", ")[2] for note in notes] == [
        f"{SHAPE[0] // 2} frames at once",
        f"{SHAPE[0] // 4} frames at once",
    ]


def test_a_failed_session_is_gone_before_the_next_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is needed: not even the error's traceback may hold it."""
    opened: list[weakref.ref[_Fails]] = []
    alive: list[int] = []

    def open_watched(*args: Any, **kwargs: Any) -> _Fails:
        alive.append(sum(known() is not None for known in opened))
        errors: list[DeviceError] = [OutOfMemoryError("full")] if not opened else []
        session = _Fails(open_stage(*args, **kwargs), errors)
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(runner_module, "open_stage", open_watched)
    runner = Runner(Bundle.open(BUILTIN), [DECODER], None, Notices())
    latents = np.zeros((8, MANIFEST.model.latent_channels, 8, 8), np.float32)
    side = 8 * MANIFEST.model.vae_downsampling
    assert runner.try_run({"latent_sample": latents}) is None
    assert runner.sizes["frames"] == 4
    assert runner.run({"latent_sample": latents[:4]}).shape == (4, 3, side, side)
    assert alive == [0, 0]


def test_a_pipeline_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, {"unet": [DeviceError("the driver was reset")]})
    pipeline = TextToVideo.from_bundle(device="cpu")
    with pytest.raises(DeviceError, match="the driver was reset"):
        pipeline("a red circle", steps=1)
    assert pipeline("a red circle", steps=1).frames.shape == SHAPE


def test_a_device_that_fails_while_running_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    _failing(monkeypatch, {"unet": [DeviceError("the driver was reset")]})
    notes: list[str] = []
    pipeline = TextToVideo.from_bundle(notify=notes.append)
    pipeline("a red circle", steps=2)
    assert pipeline.placements["unet"].backend.device.name == "openvino"
    assert any("unet failed on cpu" in note and "the driver was reset" in note for note in notes)


def test_a_device_asked_for_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, {"unet": [DeviceError("the driver was reset")]})
    with pytest.raises(DeviceError, match="the driver was reset"):
        TextToVideo.from_bundle(device="cpu")("a red circle", steps=1)


def test_memory_that_runs_out_is_told_apart() -> None:
    """ONNX Runtime in a process that may have little: its own words must be understood."""
    if sys.platform != "linux":
        pytest.skip("address space is limited with Linux's resource limits")
    program = (
        "import resource, sys, numpy as np; from pathlib import Path;"
        "from hummingbird_edge.runtime.engines.loading import open_session;"
        "from hummingbird_edge.runtime.devices.backend import Backend;"
        "from hummingbird_edge.runtime.errors import OutOfMemoryError\n"
        "s = open_session(Path(sys.argv[1]), Backend.parse('cpu'))\n"
        "z = np.zeros((64, 4, 64, 64), np.float32)\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20),) * 2)\n"
        "try:\n    s.run({'latent_sample': z})\n"
        "except OutOfMemoryError as error:\n    print('understood', error)\n"
    )
    graph = Bundle.open(BUILTIN).graph("vae_decoder", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", program, str(graph)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.startswith("understood"), done.stdout + done.stderr


def test_a_runner_needs_a_placement() -> None:
    with pytest.raises(DeviceError, match="no device could load the stage"):
        Runner(Bundle.open(BUILTIN), [], None, Notices())


@pytest.mark.parametrize(
    ("groups", "limits", "found"),
    [
        ("0::/", {"memory.max": "1000000"}, 1_000_000),
        ("0::/", {"memory.max": "max"}, None),
        ("0::/a/b", {"a/memory.max": "500", "a/b/memory.max": "900", "memory.max": "max"}, 500),
        ("0::/gone", {"memory.max": "700"}, 700),
        (
            "5:cpu:/x\n4:memory,hugetlb:/docker/1",
            {"memory/docker/1/memory.limit_in_bytes": "800"},
            800,
        ),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/", {"memory.max": "many"}, None),
        ("nonsense", {}, None),
    ],
)
def test_a_containers_limit_is_known(
    tmp_path: Path, groups: str, limits: dict[str, str], found: int | None
) -> None:
    assert container_bytes(tmp_path / "nowhere") is None
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{n}": t for n, t in limits.items()},
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    assert container_bytes(tmp_path) == found


@pytest.mark.skipif(os.name == "nt", reason="there is no such limit")
def test_a_limit_of_the_address_space_counts() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "from hummingbird_edge.runtime.placement.limits import machine_bytes\n"
        "print(machine_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout) <= 3 << 30, done.stderr
