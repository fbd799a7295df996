"""One store for results that a stopped command resumes: what they depend on, and their finished parts.

    identity.json      everything that the results depend on, as JSON; written before the first part
    NAME.parquet       a part that is a table
    NAME.json          a part that is a JSON value
    NAME.safetensors   a part that is a set of tensors, with a JSON value about them
    NAME-parts/        unfinished work on the table NAME

Each file is replaced as a whole, so a process that is killed leaves every part either old or new.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from torch import Tensor

from skiplab.errors import DataError
from skiplab.io import part_files
from skiplab.io.atomic import replacing, writable_folder, write_json, writing_to
from skiplab.io.part_files import Tensors, reading

T = TypeVar("T")

FIX = "choose another folder, or delete this one"
FRESH = "choose another folder, or start over with --fresh"
_RECOMPUTE = "delete this file, and it is computed again"


@dataclass(frozen=True)
class StoreLayout:
    """The files that a store keeps in its folder, and how it recognizes its own results there.

    Attributes:
        identity: name of the file that holds the identity.
        parts: glob patterns of everything else that the store writes, in the order in which it may be removed.
        fix: what users can do about a folder that is refused.
        tolerance: the relative tolerance of numbers in the identity that are subject to rounding, by dotted name.
    """

    identity: str = "identity.json"
    parts: tuple[str, ...] = ()
    fix: str = FIX
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def check(self, folder: Path, identity: Mapping[str, Any]) -> bool:
        """Whether the folder holds results of this identity; False where it holds none.

        Raises `DataError` for results of another identity, and for parts without any.
        """
        file = folder / self.identity
        if file.exists():
            with reading(file, self.fix):
                there = part_files.read_document(file)
            changes = list(differences(there, _as_json(identity), self.tolerance))
        else:
            changes = [f"{path.name} without {self.identity}" for path in self._parts(folder)]
        if changes:
            more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise DataError(f"{folder} holds other results: {'; '.join(changes[:3])}{more}; {self.fix}")
        return file.exists()

    def forget(self, folder: Path) -> None:
        """Removes the store's files, the identity last, and nothing else."""
        with writing_to(folder):
            for path in [*self._parts(folder), *self.leftovers(folder), folder / self.identity]:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def leftovers(self, folder: Path) -> Iterator[Path]:
        """Temporary files of writes that were killed."""
        return (path for name in (self.identity, *self.parts, "probe") for path in folder.glob(f".{name}.*.tmp"))

    def _parts(self, folder: Path) -> Iterator[Path]:
        found = (path for pattern in self.parts for path in sorted(folder.glob(pattern)))
        return (path for path in found if path.name != self.identity)


TABLES = StoreLayout("config.json", parts=("*.parquet", "*-parts"))


class ResumeStore:
    """The parts of one result in one folder.

    Args:
        folder: where parts are kept; it is created if need be. None keeps nothing and finds nothing.
        identity: everything that the parts depend on, as JSON. It is written once, before the first part.
        layout: which files are the store's.

    Raises `DataError` when the folder holds results of another identity, and `OutputError` when it cannot be written.
    """

    def __init__(self, folder: Path | str | None, identity: Mapping[str, Any], layout: StoreLayout) -> None:
        self.folder = None if folder is None else writable_folder(folder)
        self.identity, self.layout = _as_json(identity), layout
        self.claimed = self.folder is not None and layout.check(self.folder, self.identity)

    def claim(self) -> None:
        """Writes the identity, so that the folder is refused to other results. Every save starts with it."""
        if self.folder is not None and not self.claimed:
            write_json(self.folder / self.layout.identity, self.identity)
            self.claimed = True

    def save_table(self, name: str, table: pd.DataFrame) -> None:
        """Keeps a finished table, and removes the unfinished work on it."""
        self._save(f"{name}.parquet", partial(part_files.write_table, table=table))
        if (folder := self.parts_folder(name)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def load_table(self, name: str) -> pd.DataFrame | None:
        """A finished table, or None."""
        return self._load(f"{name}.parquet", part_files.read_table)

    def save_json(self, name: str, value: Any) -> None:
        """Keeps a JSON value; NaN and infinities are allowed."""
        self._save(f"{name}.json", partial(part_files.write_document, value=value))

    def load_json(self, name: str) -> Any:
        """A JSON value, or None."""
        return self._load(f"{name}.json", part_files.read_document)

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], about: Any = None) -> None:
        """Keeps tensors, and a JSON value about them."""
        self._save(f"{name}.safetensors", partial(part_files.write_tensors, tensors=tensors, about=about))

    def load_tensors(self, name: str) -> tuple[Tensors, Any] | None:
        """Tensors on the CPU and the value about them, or None."""
        return self._load(f"{name}.safetensors", part_files.read_tensors)

    def parts_folder(self, name: str) -> Path | None:
        """Folder for unfinished work on a table, until the table is saved. Claims the store's folder."""
        self.claim()
        return None if self.folder is None else self.folder / f"{name}-parts"

    def _save(self, name: str, write: Callable[[Path], None]) -> None:
        self.claim()
        if self.folder is not None:
            file = self.folder / name
            with writing_to(file.parent):
                file.parent.mkdir(exist_ok=True)
            with replacing(file) as temporary:
                write(temporary)

    def _load(self, name: str, read: Callable[[Path], T]) -> T | None:
        if self.folder is None or not (file := self.folder / name).exists():
            return None
        with reading(file, _RECOMPUTE):
            return read(file)


def differences(there: Any, here: Any, tolerance: Mapping[str, float], name: str = "") -> Iterator[str]:
    """Describes each entry in which two JSON values differ, such as "recipe.epochs was 10, now 20".

    `tolerance` has the relative tolerance of numbers that may differ, by dotted name.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from differences(there.get(key), here.get(key), tolerance, f"{name}.{key}" if name else key)
    elif not _same(there, here, tolerance.get(name, 0.0)):
        yield f"{name or 'the identity'} was {_shortened(there)}, now {_shortened(here)}"


def _same(there: Any, here: Any, tolerance: float) -> bool:
    if tolerance and isinstance(there, float) and isinstance(here, float):
        return math.isclose(there, here, rel_tol=tolerance)
    return there == here


def _shortened(value: Any, most: int = 80) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]} …"


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """A value as it is read back from JSON: lists in place of tuples."""
    return json.loads(json.dumps(value))
