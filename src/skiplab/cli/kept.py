"""Measures that are kept in a folder, so that a run that was stopped goes on where it was."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from skiplab.cli.model_options import Request
from skiplab.cli.session import Subject
from skiplab.data.sources import Asked
from skiplab.errors import DataError
from skiplab.graph.torch_compat import pytree
from skiplab.io.atomic import replacing, writable_folder, write_json
from skiplab.io.hashing import checksum

_MEND = "choose another folder, or delete this one"


class Kept:
    """A folder with one Parquet file a measure, and the config of which they are; None keeps nothing."""

    def __init__(self, path: Path | None, config: dict[str, Any]) -> None:
        self.path = path
        if path is None:
            return
        writable_folder(path)
        file = path / "config.json"
        if file.is_file():
            must_be(file, config, "measures")
        elif any(path.glob("*.parquet")):
            raise DataError(f"{path} holds tables and no config.json, so whose they are is unknown: {_MEND}")
        else:
            write_json(file, config)

    def load(self, name: str) -> pd.DataFrame | None:
        """A finished measure, or None."""
        file = self.path / f"{name}.parquet" if self.path else None
        if file is None or not file.is_file():
            return None
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is damaged ({error}): delete it, and it is measured again") from error

    def save(self, name: str, table: pd.DataFrame) -> None:
        if self.path is not None:
            with replacing(self.path / f"{name}.parquet") as file:
                table.to_parquet(file, index=False)
            shutil.rmtree(self.path / f"{name}-parts", ignore_errors=True)

    def folder(self, name: str) -> Path | None:
        """Where one measure may keep what it has so far."""
        return self.path / f"{name}-parts" if self.path else None

    def mend(self) -> str:
        return f"; the same command goes on from {self.path}" if self.path else "; with --out FOLDER it would be kept"


def must_be(file: Path, config: dict[str, Any], what: str, mend: str = _MEND) -> None:
    """DataError when the config in the file is not this one."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}): {mend}") from error
    other = [key for key in config if before.get(key) != config[key]] if isinstance(before, dict) else ["config"]
    if other:
        raise DataError(f"{file.parent} holds {what} of another {', '.join(other)}: {mend}")


def config_of(request: Request, asked: Asked, subject: Subject, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that the numbers depend on, as JSON: what else is measured in the same folder may differ."""
    first = pytree.tree_leaves(next(iter(subject.batches)))
    program = subject.program
    config = {
        "model": {
            "name": request.model,
            "kwargs": request.kwargs,
            "training": program.training,
            "seed": request.seed,
            "fingerprint": program.fingerprint,
            "weights": checksum(program.tensors.values()),
        },
        "data": {
            **asdict(asked),
            "first_batch": checksum(t for t in first if isinstance(t, Tensor)),
        },
        "options": dict(options),
        "versions": {name: version(name) for name in ("skiplab", "torch")},
    }
    return json.loads(json.dumps(config))  # in the form in which it is read back
