"""Files and folders that appear whole or not at all, whatever ends the process that writes them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hummingbird_edge.runtime import files
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.errors import BundleError
from hummingbird_edge.runtime.files import atomic_folder, atomic_path, recover

DIES = """
import os, sys
from pathlib import Path
from hummingbird_edge.runtime import files

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
replace = Path.replace

def dying(path, target):
    global steps
    if steps == 0:
        os._exit(9)
    steps -= 1
    return replace(path, target)

files._exchange = lambda one, other: False
Path.replace = dying
with files.atomic_folder(folder) as partial:
    (partial / "a.txt").write_text("new")
os._exit(9)
"""
"""Replaces a folder where nothing can be exchanged, and dies before a rename or at the end."""


def replace_and_die(folder: Path, steps: int) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, str(folder), str(steps)])
    assert done.returncode == 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that holds one file."""
    made = tmp_path / "frames [1]"
    made.mkdir()
    (made / "a.txt").write_text("old")
    return made


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(("steps", "text"), [(0, "old"), (1, "old"), (2, "new")])
def test_one_of_both_is_there_after_a_kill(folder: Path, steps: int, text: str) -> None:
    replace_and_die(folder, steps)
    assert folder.exists() == (steps != 1)
    with atomic_path(folder.parent / "another.txt") as partial:
        partial.write_text("whatever")
    assert (folder / "a.txt").read_text() == text
    assert sorted(names(folder.parent)) == ["another.txt", folder.name]


def test_whoever_reads_brings_the_old_one_back(folder: Path) -> None:
    replace_and_die(folder, 1)
    recover(folder)
    assert (folder / "a.txt").read_text() == "old"


def test_a_bundle_comes_back_when_it_is_opened(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.symlink_to(BUILTIN) if os.name == "posix" else target.mkdir()
    replace_and_die(target, 1)
    assert not os.path.lexists(target)
    if os.name == "posix":
        assert Bundle.open(target).manifest
    else:
        with pytest.raises(BundleError):
            Bundle.open(target)
    assert target.exists()


def test_what_a_running_process_moved_aside_stays_there(folder: Path) -> None:
    aside = files._sibling(folder, "replaced")
    folder.replace(aside)
    recover(folder)
    assert names(folder.parent) == [aside.name]


@pytest.mark.parametrize("letter", ["a", "ü", "猫"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, letter: str) -> None:
    target = tmp_path / (letter * (251 // len(os.fsencode(letter))) + ".mp4")
    with atomic_path(target) as partial:
        assert partial.suffix == ".mp4"
        assert files._LEFTOVER.match(partial.name)
        partial.write_text("whole")
    assert target.read_text() == "whole"
    assert names(tmp_path) == [target.name]


def test_names_that_no_system_takes_recover_nothing(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 5000, "."):
        recover(tmp_path / name)
        recover(tmp_path / name / "a")


def test_an_old_one_that_cannot_come_back_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renames fail after the first: nothing takes the old one's place, and it is not removed."""
    replace, left = Path.replace, [1]

    def failing(path: Path, target: Path) -> Path:
        if not left:
            raise PermissionError(13, "held by a scanner")
        left.pop()
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_exchange", lambda one, other: False)
        patch.setattr(Path, "replace", failing)
        with pytest.raises(PermissionError), atomic_folder(folder) as partial:
            (partial / "a.txt").write_text("new")
    (aside,) = folder.parent.iterdir()
    assert ".replaced-" in aside.name
    # The process ends, and the next one looks.
    monkeypatch.setattr(files, "is_running", lambda mark: False)
    recover(folder)
    assert (folder / "a.txt").read_text() == "old"


def test_no_reader_ever_finds_nothing(folder: Path) -> None:
    one, other = folder.parent / "one", folder.parent / "other"
    one.mkdir()
    other.mkdir()
    if not files._exchange(one, other):
        pytest.skip("this system or file system exchanges no names")
    missing, is_over = list[int](), threading.Event()

    def poll() -> None:
        while not is_over.is_set():
            if not os.path.lexists(folder):
                missing.append(1)

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(200):
        with atomic_folder(folder) as partial:
            (partial / "a.txt").write_text(str(number))
    is_over.set()
    reader.join()
    assert missing == []
    assert (folder / "a.txt").read_text() == "199"
    assert sorted(names(folder.parent)) == sorted([folder.name, "one", "other"])
