import errno
import json
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skiplab.errors import OutputError
from skiplab.io import atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_json_come_back(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a.txt", "zwei\nWörter")
    assert (tmp_path / "a.txt").read_bytes() == "zwei\nWörter".encode()
    atomic.write_json(tmp_path / "a.json", {"x": [1, 0.1]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 0.1]}
    atomic.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.json", "a.txt"]


def test_new_files_get_the_usual_rights(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "ours", "")
    (tmp_path / "usual").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_json_without_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", math.nan)
    assert names(tmp_path) == []


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def interrupted() -> None:
        with atomic.replacing(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_readers_never_see_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content reaches the disk before the name does, and the folder after it."""
    target, order = tmp_path / "a", []
    fsync, replace = os.fsync, os.replace

    def log_sync(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        fsync(descriptor)

    def log_replace(source: Path, destination: Path) -> None:
        assert source.read_text() == "whole"
        order.append("replace")
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "replace", log_replace)
    atomic.write_text(target, "whole")
    assert order == [f".a.{os.getpid()}.tmp", "replace", tmp_path.name]


@contextmanager
def small_files() -> Iterator[None]:
    """The operating system refuses files above 1,000 bytes, those that the test runner writes included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_refused_write_keeps_the_old_file(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a", "old")
    with pytest.raises(OutputError, match=rf"cannot write {tmp_path}/a: .*large; write elsewhere"), small_files():
        atomic.write_text(tmp_path / "a", "x" * 5000)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    def write() -> None:
        with atomic.replacing(tmp_path / "a") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x")

    with pytest.raises(OutputError, match=rf"cannot write {tmp_path}/a: No space .*free some space"):
        write()
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", sorted(atomic.FIXES))
def test_every_known_refusal_names_path_and_mend(number: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError) as raised, atomic.writing_to(tmp_path):
        raise OSError(number, os.strerror(number))
    assert f"cannot write {tmp_path}: {os.strerror(number)}; {atomic.FIXES[number]}" == str(raised.value)
    assert isinstance(raised.value.__cause__, OSError)


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = atomic.writable_folder(tmp_path / "a" / "b")
    assert names(folder) == []
    assert atomic.writable_folder(str(folder)) == folder


def test_a_folder_beneath_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file, not a folder"):
        atomic.writable_folder(tmp_path / "file" / "folder")
    with pytest.raises(OutputError, match="a file stands where the folder should be"):
        atomic.writable_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a file, not a folder"):
        atomic.write_text(tmp_path / "file" / "a", "")


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder stands where the file should be"):
        atomic.write_text(tmp_path / "folder", "")
    with pytest.raises(OutputError, match="the folder is missing"):
        atomic.write_text(tmp_path / "missing" / "a", "")
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_refuses_files_is_found_out_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OutputError, match="Permission denied; give yourself the right"):
        atomic.writable_folder(tmp_path)


def test_appending_cuts_first(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert atomic.append_text(path, "eins\n", after=0) == 5
    assert atomic.append_text(path, "zwö\n", after=5) == 10
    assert atomic.append_text(path, "2\n", after=5) == 7
    assert path.read_text() == "eins\n2\n"
    with pytest.raises(OutputError, match="cannot write"):
        atomic.append_text(tmp_path, "x", after=0)
