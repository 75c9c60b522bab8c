"""Folders of data, here and where fsspec reaches: what lies in them and how files appear."""

from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hummingbird_edge.distill.data.storage import Folder, open_file


class Hosted(MemoryFileSystem):  # type: ignore[misc]
    """Paths without the host of their URL, as those of ftp and sftp."""

    protocol = "hosted"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        _, separator, rest = path.partition("://")
        return "/" + rest.partition("/")[2] if separator else path


def test_a_folder_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For workers that have another current folder."""
    monkeypatch.chdir(tmp_path)
    folder = Folder.at("out")
    monkeypatch.chdir("/")
    assert Path(folder.location("a.mp4")) == tmp_path / "out" / "a.mp4"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    for folder in (Folder.at(tmp_path / "out"), Folder.at("memory://whole")):
        with suppress(KeyboardInterrupt), folder.writing("a/b.tar") as file:
            file.write(b"half")
            raise KeyboardInterrupt
        assert not folder.exists("a/b.tar")
        folder.write("a/b.tar", b"whole")
        assert (list(folder.find()), folder.read("a/b.tar")) == (["a/b.tar"], b"whole")


def test_a_url_keeps_its_host() -> None:
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    folder = Folder.at("hosted://somewhere.example/videos/")
    folder.write("a.mp4", b"whole")
    location = folder.location("a.mp4")
    assert location == "hosted://somewhere.example/videos/a.mp4"
    with open_file(location) as file:
        assert file.read() == b"whole"
    assert Folder.at("memory://").location("a.mp4") == "memory:///a.mp4"
