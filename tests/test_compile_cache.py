"""Compiled models from the cache are those that were written, or are compiled anew."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hummingbird_edge.runtime.engines.compile_cache import CompileCache, Mapped
from hummingbird_edge.runtime.pipeline import TextToVideo

FULL_DISK = """
import resource, sys
from pathlib import Path
from hummingbird_edge.runtime.engines.compile_cache import CompileCache

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

def export(stream):
    try:
        stream.write(bytes(4 << 20))
    except OSError:
        pass  # as an engine may do

CompileCache(Path(sys.argv[1])).write(Path(sys.argv[1], "a.blob"), export)
"""


@pytest.mark.slow
def test_a_flipped_byte_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a digest 20 of 24 flipped bytes gave other frames, without a word."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("HUMMINGBIRD_CACHE", str(tmp_path))

    def make() -> tuple[np.ndarray, list[str]]:
        notes: list[str] = []
        pipeline = TextToVideo.from_bundle(device="openvino", precision="fp32", notify=notes.append)
        return pipeline("a red circle", steps=1).frames, notes

    truth, notes = make()
    assert len(notes) == 3
    assert make()[1] == []
    draw = random.Random(0)
    for path in tmp_path.rglob("*.blob"):
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    frames, notes = make()
    assert [note.split()[0] for note in notes] == ["compiling"] * 3
    np.testing.assert_array_equal(frames, truth)


@pytest.mark.skipif(os.name == "nt", reason="there is no limit of a file's size")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cache, path = CompileCache(tmp_path), tmp_path / "a.blob"

    def export(stream: io.BytesIO) -> None:
        stream.write(b"model")

    cache.write(path, export)
    assert bytes(Mapped(path).model) == b"model"
    for damaged in (b"", b"short", path.read_bytes()[:-1], b"M" + path.read_bytes()[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged|empty"):
            Mapped(path)
