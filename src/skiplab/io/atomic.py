"""Files that are written whole or not at all, and errors that name what stopped the writing and the fix."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from skiplab.errors import OutputError

FIXES = {
    errno.ENOSPC: "free some space there, or write elsewhere",
    errno.EDQUOT: "free some of your quota there, or write elsewhere",
    errno.EACCES: "give yourself the right to write there, or write elsewhere",
    errno.EPERM: "give yourself the right to write there, or write elsewhere",
    errno.EROFS: "this file system is read-only: write elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a folder: move it, or write elsewhere",
    errno.EEXIST: "a file stands where the folder should be: move it, or write elsewhere",
    errno.EISDIR: "a folder stands where the file should be: move it, or write elsewhere",
    errno.ENOENT: "the folder is missing: create it first",
}


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turns a system error inside the block into an `OutputError` that names `path` and the fix."""
    try:
        yield
    except OSError as error:
        fix = FIXES.get(error.errno or 0, "write elsewhere")
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {fix}") from error


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path for any writer to fill; when the block ends, it takes the place of `path`.

    Readers of `path` see the old file or the new one, never a part, even when the process is killed or the power
    fails. When the block raises, the temporary file is removed and the old file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # the same folder: renaming is atomic there
    with writing_to(path):
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # report the error that stopped the writing
                temporary.unlink()
            raise
        _sync(path.parent)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Writes a whole file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    """Writes a whole text file atomically, in UTF-8 and with the line ends of `text`."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Writes one JSON document atomically. NaN and infinities, which JSON lacks, raise `ValueError`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_text(path: Path | str, text: str, after: int) -> int:
    """Truncates the file to its first `after` bytes, appends `text` and returns the new size in bytes.

    This is not atomic: the caller stores the size in a file that is, and ignores what is after it in this one.
    """
    path = Path(path)
    with writing_to(path), open(path, "ab") as file:
        file.truncate(after)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def writable_folder(path: Path | str) -> Path:
    """Creates the folder if need be and tries a file in it, so that a long job fails at its start."""
    path = Path(path)
    with writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}.tmp"
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)
    return path


def _sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    folder = path.is_dir()
    if folder and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders; there the rename itself is journalled
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
