"""`--max-memory` is kept: in a control group of exactly the planned size no video is killed.

HUMMINGBIRD_SOAK=1 runs it, as root on Linux: twenty videos, each free and then capped.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hummingbird_edge.quantize import quantize_bundle
from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from tests.conftest import command_line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("HUMMINGBIRD_SOAK" not in os.environ, reason="long: HUMMINGBIRD_SOAK=1"),
]

FLOAT32 = (
    (8, "64x64"),
    (16, "64x64"),
    (32, "64x64"),
    (8, "128x128"),
    (8, "256x128"),
    (16, "256x256"),
    (4, "384x256"),
)
INT8 = ((8, "64x64"), (16, "128x128"), (8, "256x256"))
VIDEOS = [
    (device, precision, frames, size)
    for precision, videos in (("fp32", FLOAT32), ("int8", INT8))
    for device in ("cpu", "openvino")
    for frames, size in videos
]


@dataclass(frozen=True)
class Group:
    """A control group that limits memory."""

    folder: Path
    limit: str
    """File of the limit, in bytes."""
    peak: str
    """File of the most that was used."""

    @classmethod
    def make(cls, name: str) -> "Group":
        """Make a group below the root, of version 1 or 2; skips where this user cannot."""
        root = Path("/sys/fs/cgroup")
        if (root / "memory").is_dir():
            group = cls(
                root / "memory" / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes"
            )
        else:
            group = cls(root / name, "memory.max", "memory.peak")
        try:
            group.folder.mkdir(exist_ok=True)
            group.set_limit(1 << 30)
        except OSError as error:
            pytest.skip(f"no control group of memory can be made here: {error}")
        return group

    def set_limit(self, size: int) -> None:
        """Limit the group to `size` bytes, none of them swap, and forget the last peak."""
        (self.folder / self.limit).write_text(str(size))
        for name, content in (("memory.swappiness", "0"), ("memory.swap.max", "0")):
            if (self.folder / name).exists():
                (self.folder / name).write_text(content)
        if self.peak == "memory.max_usage_in_bytes":
            (self.folder / "memory.force_empty").write_text("0")
            (self.folder / self.peak).write_text("0")

    def run(self, command: list[str], limit: int) -> "subprocess.CompletedProcess[str]":
        """Run `command` with `limit` bytes."""
        self.set_limit(limit)
        enter = (
            "import os, sys; open(sys.argv[1], 'w').write('0'); os.execv(sys.argv[2], sys.argv[2:])"
        )
        member = str(self.folder / "cgroup.procs")
        return _run([sys.executable, "-c", enter, member, *command])

    @property
    def used(self) -> int:
        """The most that was used, in bytes, files that were read included; 0 if unknown."""
        path = self.folder / self.peak
        return int(path.read_text()) if path.is_file() else 0


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    if sys.platform != "linux":
        pytest.skip("control groups are Linux's")
    made = Group.make(f"hummingbird-{os.getpid()}")
    yield made
    made.folder.rmdir()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    int8 = tmp_path_factory.mktemp("quick") / "int8"
    return {"fp32": BUILTIN, "int8": quantize_bundle(BUILTIN, int8, quick=True, held_out=0)}


@pytest.mark.parametrize(("device", "precision", "frames", "size"), VIDEOS)
def test_no_video_is_killed(
    group: Group,
    bundles: dict[str, Path],
    tmp_path: Path,
    device: str,
    precision: str,
    frames: int,
    size: str,
) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    shape = ("--frames", frames, "--size", size, "--steps", 2, "-o", tmp_path / "a.mp4")
    backend = ("--bundle", bundles[precision], "--device", device, "--precision", precision)
    command = command_line("hb-run", "a red circle moving right", *shape, *backend, "--json")
    free = _memory(_run(command))
    # In whole megabytes, as a user writes it.
    megabytes = -(-max(free["planned_bytes"].values()) // 10**6)
    capped = group.run([*command, "--max-memory", f"{megabytes}MB"], megabytes * 10**6)
    assert capped.returncode == 0, f"{capped.returncode}: {capped.stderr[-500:]}"
    found = _memory(capped)
    print(
        f"{device} {precision} {frames} x {size}: planned {megabytes} MB, "
        f"predicted {free['predicted_peak_bytes'] / 1e6:.0f}, "
        f"free {free['peak_bytes'] / 1e6:.0f}, capped {found['peak_bytes'] / 1e6:.0f}, "
        f"group {group.used / 1e6:.0f}"
    )
    # Of two runs: what an allocator keeps differs from one to the next by a fifth.
    measured = max(free["peak_bytes"], found["peak_bytes"])
    assert free["predicted_peak_bytes"] <= 1.3 * measured


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def _memory(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["memory"]
    return found
